"""The image, built without a container engine and run as its user. Slow: `make test-image`."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from veridical.tests.answers import Say
from veridical.tests.dockerfile import build
from veridical.tests.proxy import Proxy, wait_until
from veridical.tests.servers import free_port, listens

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def image():
    with tempfile.TemporaryDirectory(prefix="veridical-image-") as folder:
        Path(folder).chmod(0o755)  # its user must get in
        yield build(ROOT / "deploy/Dockerfile", ROOT, Path(folder))


def newer(folder: Path, moment: float) -> set[Path]:
    return {path for path in folder.rglob("*") if path.lstat().st_ctime > moment}


def test_it_serves_as_its_user_and_writes_only_its_state(image, upstream):
    upstream.on(draft=Say("Hello."))
    proxy, begun = Proxy(free_port()), time.time()
    port = {"VERIDICAL_PORT": str(proxy.port)}
    serve = [*image.entrypoint, *image.command, "--base-url", upstream.url.replace("localhost", "127.0.0.1")]
    with image.start(serve, port) as process:
        try:
            wait_until(lambda: listens(proxy.port), 240)
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert os.getuid() != 0 or "Uid:\t10001\t10001" in status
            assert image.start(image.health, port).wait(60) == 0
            assert proxy.chat().status == 401
            with image.start([*image.entrypoint, "keys", "create", "--name", "a"], port, stdout=-1) as made:
                key = made.communicate(timeout=120)[0].decode().strip()
            assert proxy.chat(headers={"Authorization": f"Bearer {key}"}).status == 200
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    assert image.start(image.health, port).wait(60) != 0
    written = newer(image.root, begun)
    assert image.root / "state/state.sqlite" in written
    assert all(path.is_relative_to(image.root / "state") for path in written)


def test_nothing_is_in_it_but_what_runs(image):
    packages = next((image.root / "app/lib").glob("python*")) / "site-packages"
    assert (packages / "veridical/strategies/prompts/cove").is_dir()
    assert not (packages / "veridical/tests").exists()
    assert not (packages / "pip").exists()
    assert {path.name for path in image.root.iterdir()} == {"app", "state"}
