"""Who can reach the proxy without a key: this machine only, unless somebody says otherwise."""

import pytest
from click.testing import CliRunner

from veridical import server
from veridical.__main__ import main
from veridical.middleware.config import Settings
from veridical.server import check_exposure, is_loopback
from veridical.strategies.errors import ConfigError

HERE = ["127.0.0.1", "127.8.9.1", "::1", "localhost"]
ANYWHERE = [
    "0.0.0.0",
    "::",
    "",
    "10.0.0.7",
    "192.168.1.2",
    "2001:db8::1",
    "::ffff:10.0.0.1",
    "gateway.example",
]


@pytest.mark.parametrize("host", [*HERE, *ANYWHERE])
def test_other_addresses_than_loopback_need_keys(host):
    assert is_loopback(host) == (host in HERE)
    open_to_all = Settings.model_validate({"server": {"host": host}})
    if host in HERE:
        check_exposure(open_to_all)
    else:
        with pytest.raises(ConfigError, match="--insecure"):
            check_exposure(open_to_all)
    check_exposure(Settings.model_validate({"server": {"host": host}, "auth": {"keys": True}}))
    check_exposure(Settings.model_validate({"server": {"host": host}, "auth": {"client_keys_env": ["X"]}}))
    check_exposure(Settings.model_validate({"server": {"host": host, "insecure": True}}))


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        (["--host", "0.0.0.0"], False),
        (["--host", "0.0.0.0", "--insecure"], True),
        (["--host", "0.0.0.0", "--keys"], True),
        ([], True),
    ],
)
def test_serve_refuses_before_it_listens(monkeypatch, arguments, starts):
    ran = []
    monkeypatch.setattr(server.uvicorn.Server, "run", lambda self, sockets: ran.append(self.config.host))
    result = CliRunner().invoke(main, ["serve", "--base-url", "http://127.0.0.1:9/v1", *arguments])
    assert (result.exit_code == 0, bool(ran)) == (starts, starts)
    if not starts:
        assert result.stderr.startswith("veridical: On 0.0.0.0 everybody")
