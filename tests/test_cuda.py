"""Every CUDA source compiles for every supported GPU, without one, and spills no register."""

import io
import re

import pytest

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install 'stgvlib[cuda]'")

from stgvlib.cuda import compiler  # noqa: E402

SOURCES = sorted(path.stem for path in compiler.SOURCES.glob("*.cu"))


@pytest.mark.parametrize("arch", compiler.ARCHITECTURES)
@pytest.mark.parametrize("name", SOURCES)
def test_compiles_without_spills(name, arch):
    logs = io.StringIO()
    cubin = compiler.compile_cubin(name, arch, logs)
    assert cubin[:4] == b"\x7fELF"
    kernels = (compiler.SOURCES / f"{name}.cu").read_text().count('extern "C"')
    report = logs.getvalue()
    spills = re.findall(r"properties for (\w+)\s+ptxas.*?(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert len(spills) >= kernels > 0, report
    assert [s for s in spills if s[1:] != ("0", "0")] == []


def test_cache_is_used_and_survives_a_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STGV_CACHE", str(tmp_path / "cache"))
    first = compiler.cached_cubin("optimizer", "sm_90")
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 1 and files[0].read_bytes() == first
    files[0].write_bytes(b"from the cache")
    assert compiler.cached_cubin("optimizer", "sm_90") == b"from the cache"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STGV_CACHE", str(tmp_path / "file"))
    assert compiler.cached_cubin("optimizer", "sm_90")[:4] == b"\x7fELF"
