"""python-openstackclient and openstacksdk, which we did not write and did not change, against the whole product."""

import re

import pytest

from app.core import ids
from tests.e2e.conftest import Client, Stack, until
from tests.openstack_clients import Clients, with_credential, with_password, with_token, without_keystone

pytestmark = pytest.mark.timeout(240)  # one of the tests also waits for the stack, or for the clients to be installed

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
STOP_TIMEOUT_S = 30


@pytest.fixture(scope="module")
def clients(stack: Stack) -> Clients:
    return with_password(stack.url, stack.key)


def stopped(client: Client, vmid: int) -> bool:
    return client.status(vmid)["status"] == "stopped"


class TestCommandLine:
    def test_server_list(self, clients: Clients, vmids: tuple[int, ...]) -> None:
        found = clients.json("server", "list")
        assert [server["Name"] for server in found] == ["demo-1", "demo-2", "demo-3"]
        assert [server["ID"] for server in found] == [ids.openstack_id(vmid) for vmid in vmids]
        assert {server["Status"] for server in found} == {"ACTIVE"}
        assert {server["Flavor"] for server in found} == {"1 vCPU, 256 MiB"}

    @pytest.mark.usefixtures("vmid")
    def test_filters_and_pages(self, clients: Clients) -> None:
        assert [server["Name"] for server in clients.json("server", "list", "--name", "demo-2")] == ["demo-2"]
        assert [server["Name"] for server in clients.json("server", "list", "--limit", "1")] == ["demo-1"]
        assert [server["Name"] for server in clients.json("server", "list", "--marker", "demo-2")] == ["demo-3"]
        assert clients.json("server", "list", "--status", "ERROR") == []
        refused = clients.run("server", "list", "--ip", "10.0.0.1")
        assert (refused.returncode, "ip: is not supported" in refused.stderr) == (1, True), refused.stderr

    def test_server_show_by_name_and_by_id(self, clients: Clients, client: Client, vmid: int) -> None:
        server = clients.json("server", "show", "demo-1")
        assert server == clients.json("server", "show", ids.openstack_id(vmid)) | {"updated": server["updated"]}
        assert (server["name"], server["status"], server["project_id"]) == ("demo-1", "ACTIVE", "demo")
        assert server["flavor"] == "1 vCPU, 256 MiB (1cpu-256mb)"
        assert server["OS-EXT-SRV-ATTR:instance_name"] == str(vmid)
        assert server["OS-EXT-SRV-ATTR:hypervisor_hostname"] == client.status(vmid)["node"]

    def test_server_that_is_not_there(self, clients: Clients) -> None:
        done = clients.run("server", "show", "demo-99")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "No Server found for demo-99\n")

    def test_server_stop_and_start(self, clients: Clients, client: Client, vmid: int) -> None:
        boot_id = client.output(vmid, BOOT_ID)
        assert clients.openstack("server", "stop", "demo-1") == ""
        until(STOP_TIMEOUT_S, "the VM is stopped", lambda: stopped(client, vmid))
        server = clients.json("server", "show", "demo-1")
        assert (server["status"], server["OS-EXT-STS:power_state"]) == ("SHUTOFF", 4)
        refused = clients.run("server", "stop", "demo-1")
        assert refused.returncode == 1
        assert re.search(r"409.*stopped", refused.stderr), refused.stderr

        assert clients.openstack("server", "start", "demo-1") == ""
        client.wait_available(vmid)
        assert clients.json("server", "show", "demo-1")["status"] == "ACTIVE"
        assert client.output(vmid, BOOT_ID) != boot_id

    def test_server_reboot_hard_is_over_when_the_client_says_so(
        self, clients: Clients, client: Client, vmid: int
    ) -> None:
        boot_id, qemu_pid = client.output(vmid, BOOT_ID), client.status(vmid)["qemuPid"]
        pid = client.start(vmid, "sleep 600")
        assert "Complete" in clients.openstack("server", "reboot", "--hard", "--wait", "demo-1")
        assert client.wait(vmid, pid)["state"] == "lost"
        client.wait_available(vmid)
        assert client.output(vmid, BOOT_ID) != boot_id
        assert client.status(vmid)["qemuPid"] == qemu_pid

    @pytest.mark.usefixtures("vmid")
    def test_flavors(self, clients: Clients) -> None:
        (flavor,) = clients.json("flavor", "list")
        assert (flavor["ID"], flavor["RAM"], flavor["VCPUs"]) == ("1cpu-256mb", 256, 1)
        assert clients.json("flavor", "show", "1cpu-256mb")["ram"] == 256

    def test_tokens_and_catalog(self, stack: Stack, clients: Clients) -> None:
        token = clients.json("token", "issue")
        assert token["project_id"] == "demo"
        by_token = with_token(stack.url, token["id"])
        assert len(by_token.json("server", "list")) == 3
        clients.openstack("token", "revoke", token["id"])
        assert "(HTTP 401)" in by_token.run("server", "list").stderr
        services = clients.json("catalog", "list")
        assert {service["Type"] for service in services} == {"compute", "identity"}

    def test_application_credential(self, stack: Stack) -> None:
        assert len(with_credential(stack.url, stack.key).json("server", "list")) == 3

    def test_wrong_password_is_a_clean_401(self, stack: Stack) -> None:
        done = with_password(stack.url, "wrong").run("server", "list")
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"The API key is not valid \(HTTP 401\) \(Request-ID: req-[0-9a-f-]{36}\)\n", done.stderr)


class TestSdk:
    def test_servers_page_by_page(self, clients: Clients, vmids: tuple[int, ...]) -> None:
        found = clients.sdk("print(json.dumps([server.id for server in conn.compute.servers(limit=1)]))")
        assert found == [ids.openstack_id(vmid) for vmid in vmids]

    def test_a_server_through_its_life(self, clients: Clients, client: Client, vmid: int) -> None:
        boot_id = client.output(vmid, BOOT_ID)
        seen = clients.sdk("""
server = conn.compute.find_server("demo-1", ignore_missing=False)
seen = [server.status]
def then(status):
    seen.append(conn.compute.get_server(server).task_state)
    seen.append(conn.compute.wait_for_server(server, status=status, wait=40, interval=0.1).status)
conn.compute.stop_server(server)
then("SHUTOFF")
conn.compute.start_server(server)
then("ACTIVE")
conn.compute.reboot_server(server, "HARD")
then("ACTIVE")
print(json.dumps(seen))
""")
        assert seen[::2] == ["ACTIVE", "SHUTOFF", "ACTIVE", "ACTIVE"]
        assert seen[1] == "powering-off"
        assert seen[3] in {"powering-on", None}  # where QEMU was quicker than the client
        assert seen[5] in {"rebooting_hard", None}
        client.wait_available(vmid)
        assert client.output(vmid, BOOT_ID) != boot_id

    @pytest.mark.usefixtures("vmid")
    def test_errors_are_the_ones_that_programs_catch(self, clients: Clients) -> None:
        seen = clients.sdk("""
from openstack import exceptions
server, seen = conn.compute.find_server("demo-1"), {}
def note(call, *arguments):
    try:
        call(*arguments)
    except exceptions.HttpException as exc:
        seen[type(exc).__name__] = [exc.status_code, exc.details, exc.request_id[:4]]
note(conn.compute.start_server, server)
note(conn.compute.get_server, "00000000-0000-0000-0000-000000000000")
note(conn.compute.pause_server, server)
print(json.dumps(seen))
""")
        assert seen == {
            "ConflictException": [409, "The VPS is running", "req-"],
            "NotFoundException": [404, "VM not found", "req-"],
            "BadRequestException": [400, "pause: There is no such action", "req-"],
        }

    def test_other_layers_of_the_sdk(self, clients: Clients, vmid: int) -> None:
        seen = clients.sdk(
            "print(json.dumps([conn.get_server('demo-1').id, conn.get_flavor('1cpu-256mb').ram,"
            " conn.compute.get(f'/servers/{sys.argv[1]}').json()['server']['name']]))",
            ids.openstack_id(vmid),
        )
        assert seen == [ids.openstack_id(vmid), 256, "demo-1"]

    def test_api_key_as_a_token_without_keystone(self, stack: Stack, vmids: tuple[int, ...]) -> None:
        clients = without_keystone(stack.url, stack.key)
        found = clients.sdk("print(json.dumps([server.id for server in conn.compute.servers()]))")
        assert found == [ids.openstack_id(vmid) for vmid in vmids]
