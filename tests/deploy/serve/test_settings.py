"""What the server may be told, and what it refuses before it opens a port."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.core.errors import InputError
from danlu.deploy.serve.settings import ServeSettings, bind, make_settings

TOKEN = "a-token-of-many-letters"


def test_bad_settings_are_named(tmp_path: Path) -> None:
    for port in (-1, 65536):
        with pytest.raises(InputError, match="--port"):
            make_settings(port=port, environ={})
    for name in (
        "*",
        "http://x",
        "a/b",
        "x:80",
        "",
        "*.example.org",
        "a b",
        "[::1]:8000",
        "[::1",
        "[x]",
        "a..b",
        "straße.de",
    ):
        with pytest.raises(InputError, match="--allow-host"):
            make_settings(allow_hosts=[name], environ={})
    for host in ("http://x", "a..b", "127.0.0.1:8000"):
        with pytest.raises(InputError, match=f"--host '{host}'"):
            make_settings(host, environ={"DANLU_TOKEN": TOKEN})
    with pytest.raises(InputError, match="is no address"):
        bind(ServeSettings("a..b", token=TOKEN))
    found = make_settings(allow_hosts=["Bücher.de", "[2001:DB8:0::1]", "::2"], environ={}).hosts
    assert found >= {"xn--bcher-kva.de", "[2001:db8::1]", "[2001:db8:0::1]", "[::2]"}
    with pytest.raises(InputError, match="cannot be read"):
        make_settings(token_file=tmp_path / "none", environ={})
    assert make_settings("127.0.0.2", environ={}).hosts >= {"127.0.0.2", "localhost"}
    assert "example.org" in make_settings(allow_hosts=["Example.org"], environ={}).hosts
    wide = make_settings("0.0.0.0", environ={"DANLU_TOKEN": TOKEN})
    assert "0.0.0.0" not in wide.hosts
