"""Disk images that no QEMU has open, through ``qemu-img`` (Debian: qemu-utils): their snapshots, listed and deleted.

An image that a QEMU writes to is locked by it, and refused here in qemu-img's words. Doesn't know whose an image is.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.core.errors import MonitorError, SnapshotError
from workers.qmp import replies
from workers.qmp.replies import Image
from workers.vms import machine

_WORDS_LIMIT_BYTES = 1000


@dataclass(frozen=True, slots=True)
class QemuImg:
    """Asks ``qemu-img``.

    Attributes:
        binary: The program, looked up in PATH.
    """

    binary: str

    async def read(self, paths: Sequence[Path], *, timeout_s: float) -> tuple[Image, ...]:
        """Look into images; their node is their path.

        Raises:
            SnapshotError: One can't be read.
        """
        return tuple([await self._read(path, timeout_s) for path in paths])

    async def delete(self, nodes: Sequence[str], snapshot: str, *, timeout_s: float) -> None:
        """Delete a snapshot from qcow2 images, given as nodes that ``read`` told.

        Raises:
            SnapshotError: It can't be deleted.
        """
        for node in nodes:
            await self._run("snapshot", "-q", "-d", snapshot, node, timeout_s=timeout_s)

    async def _read(self, path: Path, timeout_s: float) -> Image:
        kind = machine.image_format(path)
        if kind != "qcow2":
            return Image(path.name, str(path), kind, writable=True, snapshots=())
        text = await self._run("info", "-f", kind, "--output=json", str(path), timeout_s=timeout_s)
        try:
            return Image(path.name, str(path), kind, writable=True, snapshots=replies.load_snapshots(json.loads(text)))
        except (ValueError, MonitorError) as exc:
            raise SnapshotError(f"what {self.binary} says of {path.name} can't be read") from exc

    async def _run(self, *arguments: str, timeout_s: float) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                self.binary,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as exc:
            raise SnapshotError(f"QEMU_IMG_BINARY {self.binary} can't be started: {exc.strerror}") from exc
        try:
            async with asyncio.timeout(timeout_s):
                output, words = await process.communicate()
        except TimeoutError as exc:
            raise SnapshotError(f"{self.binary} has not ended within {timeout_s:g} s") from exc
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if process.returncode != 0:
            raise SnapshotError(words[-_WORDS_LIMIT_BYTES:].decode("utf-8", "replace").strip())
        return output
