"""An object store whose name server hangs fails in time.

The store's client is compiled and looks names up by itself, through the C library: so that is where a
lookup is made to hang.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HANGING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **to) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    if (name && strstr(name, "hanging.example.com")) { fputs("asked ", stderr); sleep(120); }
    return real(name, service, hints, to);
}
"""
READ = """
import json, os, time
from datetime import timedelta
from models import store
store.CLIENT["connect_timeout"] = timedelta(seconds=1)
store.RETRY["max_retries"] = 0
began = time.monotonic()
try:
    list(store.open_store("s3://bucket").list("folder"))
except store.StoreError as error:
    print(json.dumps({"error": str(error), "seconds": time.monotonic() - began}), flush=True)
os._exit(0)  # the thread that hangs would hold the process up
"""


@pytest.fixture
def resolver(tmp_path: Path) -> Path:
    """A library to be loaded before the C library, whose lookups of one domain hang."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    source, library = tmp_path / "hanging.c", tmp_path / "hanging.so"
    source.write_text(HANGING)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def test_a_name_server_that_hangs(resolver: Path) -> None:
    environment = {
        **os.environ,
        "LD_PRELOAD": str(resolver),
        "AWS_ENDPOINT_URL": "http://s3.hanging.example.com:9000",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    read = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert "asked" in read.stderr
    told = json.loads(read.stdout)
    assert 1 <= told["seconds"] < 10
