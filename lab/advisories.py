"""Holds locked Python packages against the published advisories, by pip-audit.

pip-audit itself calls a list clean of which it could look up nothing, and fails when the network is away. Here a
service counts only if it knows what is wrong with an old release; that none does is said, and is no failure.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICES: Mapping[str, Sequence[str]] = {"PyPI": ("-s", "pypi"), "OSV": ("-s", "osv")}
"""Who may be asked, the first that answers: pip-audit's options for it."""

KNOWN_TO_BE_VULNERABLE = "jinja2==2.4.1"
"""Whoever has nothing to say about this (PYSEC-2014-8 and later ones) knows no advisories."""

RUN_TIMEOUT_S = 120
_PROBE_TIMEOUT_S = 20
_REQUEST_TIMEOUT_S = 5


@dataclass(frozen=True)
class Findings:
    """What a service said about some packages, each as `name version`."""

    clean: Sequence[str]
    vulnerable: Mapping[str, str]
    """To each package its advisories, and the versions without them."""
    unknown: Sequence[str]
    """Packages that the service has no record of."""


def ask(service: Sequence[str], locks: Sequence[Path], timeout_s: float = RUN_TIMEOUT_S) -> Findings | None:
    """Ask one service about all packages in these lock files; None when it gives no answer in time."""
    argv = [sys.executable, "-m", "pip_audit", *service, "--format", "json", "--progress-spinner", "off"]
    argv += ["--timeout", str(_REQUEST_TIMEOUT_S), "--disable-pip", "--no-deps"]
    argv += [word for lock in locks for word in ("-r", str(lock))]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout_s)
        return _findings(json.loads(done.stdout)["dependencies"])
    except (subprocess.TimeoutExpired, ValueError):
        return None


def _findings(dependencies: Sequence[Mapping[str, Any]]) -> Findings:
    unknown = [package["skip_reason"].rpartition(": ")[2] for package in dependencies if "skip_reason" in package]
    known = {
        f"{package['name']} {package['version']}": package["vulns"] for package in dependencies if "vulns" in package
    }
    vulnerable = {package: "; ".join(map(_advisory, vulns)) for package, vulns in known.items() if vulns}
    return Findings([package for package in known if package not in vulnerable], vulnerable, unknown)


def _advisory(vuln: Mapping[str, Any]) -> str:
    return f"{vuln['id']}, fixed in {', '.join(vuln['fix_versions']) or 'no version yet'}"


def knows_advisories(service: Sequence[str]) -> bool:
    """Tell whether a service is there and knows what every list of advisories has."""
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "old.lock"
        lock.write_text(KNOWN_TO_BE_VULNERABLE)
        findings = ask(service, [lock], _PROBE_TIMEOUT_S)
    return findings is not None and findings.vulnerable != {}


def audit(locks: Sequence[Path], services: Mapping[str, Sequence[str]]) -> int:
    """Ask the first service that knows advisories, print what it says; answer with an exit status."""
    for name, service in services.items():
        findings = ask(service, locks) if knows_advisories(service) else None
        if findings is not None:
            return _tell(name, findings)
    print(f"pip-audit: SKIPPED, nothing was checked: no advisories from {' or '.join(services)}")
    return 0


def _tell(service: str, findings: Findings) -> int:
    looked_up = len(findings.clean) + len(findings.vulnerable)
    print(f"pip-audit: {looked_up} packages looked up at {service}, {len(findings.vulnerable)} of them vulnerable")
    for package, advisories in findings.vulnerable.items():
        print(f"  {package}: {advisories}")
    if findings.unknown:
        print(f"  not looked up, {service} has no record of them: {', '.join(findings.unknown)}")
    return 1 if findings.vulnerable else 0


if __name__ == "__main__":
    sys.exit(audit([Path(argument) for argument in sys.argv[1:]], SERVICES))
