"""What `xdev doctor` finds: each setting that bites, with its remedy, in words and as JSON."""

import json
import os
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import xdev
from xdev import registry
from xdev.cli import app, survey
from xdev.contract import DeviceInfo, Finding
from xdev_numpy.backend import NumpyBackend


def doctor(*arguments, columns="200"):
    return CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": columns})


def as_json(*arguments):
    result = doctor("--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def findings_of(name, *arguments):
    (entry,) = (e for e in as_json(*arguments)["backends"] if e["backend"] == name)
    return entry["findings"]


def found(backend):
    return {finding.what: finding for finding in backend.diagnose()}


def the(backend, words):
    """The one finding with these words."""
    (finding,) = (f for f in backend.diagnose() if words in f.what)
    return finding


# -- any backend -------------------------------------------------------------------------------------


def test_every_backend_diagnoses_itself(backend):
    for finding in backend.diagnose():
        assert isinstance(finding, Finding)
        assert finding.level in ("note", "warning")
        assert finding.what
        assert finding.remedy.endswith(".")


@pytest.fixture
def acme():
    """Register frameworks that share a GPU, or do not."""
    names = []

    def register(name, *listed, hardware="cuda:0", count=1):
        def devices(self):
            return [DeviceInfo(kind="cuda", index=0, handle="a0", hardware=hardware)]

        members = {
            "name": name, "framework": f"{name}_framework", "is_host": False, "priority": -9, "devices": devices,
            "owns": lambda self, x: False, "diagnose": lambda self: listed, "threads": lambda self: (count, "ACME=n"),
        }  # fmt: skip
        xdev.register(type("Made", (NumpyBackend,), members))
        names.append(name)

    yield register
    for name in names:
        registry.unregister(name)


def test_findings_are_shown_with_their_remedy_warnings_first(acme):
    acme("acme", Finding("note", "It hums.", "Let it."), Finding("warning", "It smokes.", "Switch it off."))
    assert findings_of("acme") == [
        {"level": "warning", "finding": "It smokes.", "remedy": "Switch it off."},
        {"level": "note", "finding": "It hums.", "remedy": "Let it."},
    ]
    lines = [line.rstrip() for line in doctor().stdout.splitlines()]
    first = next(i for i, line in enumerate(lines) if line.endswith("It smokes."))
    assert lines[first].split() == ["warning", "acme", "It", "smokes."]
    assert lines[first + 1].strip() == "Switch it off."
    assert first < next(i for i, line in enumerate(lines) if line.endswith("It hums."))


def test_what_bites_on_shared_hardware_only_is_left_out_elsewhere(acme):
    shared = Finding("warning", "It keeps the memory.", "Set ACME=0.", hardware="cuda:7")
    acme("acme", shared, hardware="cuda:7")
    acme("zenith", hardware="cuda:8")
    assert findings_of("acme") == []
    registry.unregister("zenith")
    acme("zenith", hardware="cuda:7")
    assert [finding["finding"] for finding in findings_of("acme")] == ["It keeps the memory."]


@pytest.mark.parametrize("columns", ["80", "200"])
def test_no_line_is_longer_than_the_terminal(acme, columns):
    acme("acme", Finding("warning", "words " * 40, "more words " * 40))
    assert max(len(line) for line in doctor(columns=columns).stdout.splitlines()) <= int(columns)


# -- threads -----------------------------------------------------------------------------------------


def test_more_threads_than_cores(acme):
    acme("acme", count=1000)
    content = as_json()
    assert content["cores"] == survey.cores()
    assert content["threads"]["acme"] == 1000
    alone, together = (f for f in content["findings"] if "acme" in f["finding"])
    assert alone["level"] == "warning"
    assert alone["finding"].startswith("acme computes with 1000 threads, and this process has ")
    assert alone["remedy"] == f"With n={survey.cores()}, ACME=n."
    assert together["level"] == "note"
    assert "; acme: ACME=n" in together["remedy"]
    assert "acme computes with 1000 threads" in doctor().stdout


@pytest.mark.parametrize(
    ("counts", "available", "texts"),
    [
        ({"a": 2}, 2, []),
        ({"a": 1, "b": 1}, 2, []),
        ({"a": 2}, 1, ["a computes with 2 threads, and this process has 1 core"]),
        (
            {"a": 2, "b": 1},
            2,
            [
                "the frameworks together have 3 threads for 2 cores (a 2, b 1), and slow each other down where two "
                "compute at once"
            ],
        ),
    ],
)
def test_when_threads_are_too_many(counts, available, texts):
    found = survey.thread_findings({name: (count, "X=n") for name, count in counts.items()}, available)
    assert [finding.what for finding in found] == texts


@pytest.mark.parametrize(
    ("written", "expected"), [("200000 100000", 2), ("max 100000", 8), ("50000 100000", 1), (None, 8)]
)
def test_cores_are_those_of_the_affinity_and_the_containers_quota(monkeypatch, tmp_path, written, expected):
    quota = tmp_path / "cpu.max"
    if written is not None:
        quota.write_text(written)
    monkeypatch.setattr(survey, "CPU_QUOTA", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert survey.cores() == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "0"}, 7),
        ({}, 7),
    ],
)
def test_threads_of_the_blas(monkeypatch, environment, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(7), raising=False)
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert xdev.backend("numpy").threads()[0] == expected


# -- the user's own modules --------------------------------------------------------------------------


def test_a_module_of_the_users_is_imported_first(monkeypatch, tmp_path):
    (tmp_path / "my_training.py").write_text("print('noise')\nimport os\nos.environ['OPENBLAS_NUM_THREADS'] = '999'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert as_json("--import", "my_training")["threads"]["numpy"] == 999


def test_a_module_that_is_not_there_is_misuse():
    result = doctor("--import", "no_such_module")
    assert result.exit_code == 2
    text = " ".join(result.stderr.split())
    assert "the module 'no_such_module' cannot be imported: ModuleNotFoundError: No module named" in text


# -- torch -------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    """torch, with its settings put back."""
    module = pytest.importorskip("torch")
    yield module
    module.set_default_device(None)
    module.set_float32_matmul_precision("highest")


def test_torchs_default_device(torch):
    backend = xdev.backend("torch")
    assert not [what for what in found(backend) if "default device" in what]
    torch.set_default_device("meta")
    finding = the(backend, "default device")
    assert finding.level == "warning"
    assert finding.what == (
        "torch's default device was changed to meta: what is created without a device lands there, and "
        "torch.as_tensor and torch.asarray move tensors that exist"
    )
    assert finding.remedy == "Undo it with torch.set_default_device(None), and create with xdev.device(...).xp."
    assert finding.what in [f["finding"] for f in findings_of("torch")]
    assert "default device was changed to meta" in doctor().stdout


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_torchs_precision_of_matmuls(torch, setting):
    backend = xdev.backend("torch")
    assert not [what for what in found(backend) if "matmuls" in what]
    torch.set_float32_matmul_precision(setting)
    finding = the(backend, "matmuls")
    assert finding.level == "warning"
    assert finding.what.startswith(
        f"float32 matmuls of torch run at precision {setting} (torch.set_float32_matmul_precision), in TF32 or bfloat16"
    )
    assert finding.remedy == 'For full float32, torch.set_float32_matmul_precision("highest").'


def test_tf32_by_each_of_torchs_settings(torch):
    backend = xdev.backend("torch")
    torch.backends.cuda.matmul.allow_tf32 = True
    assert the(backend, "matmuls").level == "warning"
    torch.backends.cuda.matmul.allow_tf32 = False
    assert not [what for what in found(backend) if "matmuls" in what]


def fake_torch(older, newer, everywhere="none"):
    def precision():
        if older is None:
            raise RuntimeError("mix of the legacy and new APIs")
        return older

    matmul = SimpleNamespace(fp32_precision=newer)
    backends = SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), fp32_precision=everywhere)
    return SimpleNamespace(get_float32_matmul_precision=precision, backends=backends)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ((None, "tf32"), "tf32 (fp32_precision of torch.backends)"),
        (("highest", "none", "tf32"), "tf32 (fp32_precision of torch.backends)"),
        (("highest", "ieee"), None),
        ((None, "ieee"), None),
        (("medium", "tf32"), "medium (torch.set_float32_matmul_precision)"),
    ],
)
def test_torchs_newer_settings_of_precision(settings, text):
    pytest.importorskip("torch")
    from xdev_torch.diagnosis import _matmul

    texts = [finding.what for finding in _matmul(fake_torch(*settings))]
    assert (not texts) if text is None else (text in texts[0])


def test_torchs_threads(torch, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert xdev.backend("torch").threads() == (5, "torch.set_num_threads(n), or OMP_NUM_THREADS=n")


def test_torchs_cache_and_convolutions_on_a_gpu(torch):
    from xdev_torch.diagnosis import _cache, _convolutions

    gpu = DeviceInfo(kind="cuda", index=1, handle="g", hardware="cuda:1")
    cuda = SimpleNamespace(is_initialized=lambda: True, memory_reserved=lambda handle: 4096)
    (finding,) = _cache(SimpleNamespace(cuda=cuda), [gpu])
    assert (finding.level, finding.hardware) == ("note", "cuda:1")
    assert finding.what == (
        "torch keeps memory of cuda:1 that it has freed, 4,096 bytes now, and other frameworks there cannot use it"
    )
    untouched = SimpleNamespace(is_initialized=lambda: False, memory_reserved=lambda handle: pytest.fail("a pool"))
    (finding,) = _cache(SimpleNamespace(cuda=untouched), [gpu])
    assert "0 bytes now" in finding.what
    (finding,) = _convolutions(torch, [gpu])
    assert finding.remedy == "For full float32, torch.backends.cudnn.allow_tf32 = False."
    assert list(_convolutions(torch, [])) == []


# -- JAX ---------------------------------------------------------------------------------------------


@pytest.fixture
def jax_config(monkeypatch):
    """JAX's settings, put back afterwards."""
    config = pytest.importorskip("jax").config
    names = ("jax_enable_x64", "jax_default_device", "jax_default_matmul_precision")
    before = {name: getattr(config, name) for name in names}
    yield config
    for name, value in before.items():
        config.update(name, value)


def test_x64_of_jax(jax_config):
    backend = xdev.backend("jax")
    off = the(backend, "x64")
    assert off.level == "note"
    assert off.what.startswith("x64 is off: JAX's own functions turn float64 into float32 without a word")
    assert 'with xdev.precision("float64"):' in off.remedy
    jax_config.update("jax_enable_x64", True)
    on = the(backend, "x64")
    assert on.level == "warning"
    assert on.what.startswith("x64 is on for the whole process (JAX_ENABLE_X64, or jax_enable_x64 in jax.config)")
    assert on.what in [f["finding"] for f in findings_of("jax")]


def test_jaxs_default_device(jax_config):
    import jax

    backend = xdev.backend("jax")
    assert not [what for what in found(backend) if "default device" in what]
    jax_config.update("jax_default_device", jax.devices()[0])
    finding = the(backend, "default device")
    assert finding.level == "warning"
    assert f"was set to {jax.devices()[0]} (jax_default_device)" in finding.what
    assert finding.remedy.startswith('Undo it with jax.config.update("jax_default_device", None)')


def test_jaxs_precision_of_matmuls(jax_config):
    from xdev_jax.diagnosis import _matmul

    backend = xdev.backend("jax")
    jax_config.update("jax_default_matmul_precision", "bfloat16")
    finding = the(backend, "matmuls")
    assert finding.level == "warning"
    assert "run at precision bfloat16 (jax_default_matmul_precision)" in finding.what
    jax_config.update("jax_default_matmul_precision", "highest")
    assert list(_matmul(jax_config, True)) == []
    jax_config.update("jax_default_matmul_precision", None)
    assert list(_matmul(jax_config, False)) == []
    (finding,) = _matmul(jax_config, True)
    assert finding.level == "note"
    assert finding.remedy == 'For full float32, jax.config.update("jax_default_matmul_precision", "highest").'


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({}, "JAX reserves 0.75 of the memory of cuda:1 at its first use, and other frameworks there get what is left"),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, "JAX reserves 0.5 of the memory of cuda:1"),
        ({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, "JAX reserves 0.75"),
        ({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, None),
        ({"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}, None),
    ],
)
def test_memory_that_jax_reserves(monkeypatch, environment, text):
    pytest.importorskip("jax")
    from xdev_jax.diagnosis import _preallocation

    for name in ("PREALLOCATE", "MEM_FRACTION", "ALLOCATOR"):
        monkeypatch.delenv(f"XLA_PYTHON_CLIENT_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    infos = [
        DeviceInfo(kind="cuda", index=1, handle="g", hardware="cuda:1"),
        DeviceInfo(kind="cpu", index=0, handle="c", hardware="cpu"),
    ]
    findings = list(_preallocation(infos))
    assert len(findings) == (text is not None)
    for finding in findings:
        assert finding.what.startswith(text)
        assert (finding.level, finding.hardware) == ("warning", "cuda:1")
        assert finding.remedy.startswith("Set XLA_PYTHON_CLIENT_PREALLOCATE=false")
    assert list(_preallocation(infos[1:])) == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, 6), ({"NPROC": "3"}, 3), ({"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}, 1)],
)
def test_jaxs_threads(monkeypatch, environment, expected):
    pytest.importorskip("jax")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    for name in ("NPROC", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert xdev.backend("jax").threads()[0] == expected


# -- CuPy --------------------------------------------------------------------------------------------


@pytest.mark.xdev_backends(only=("cupy",), reason="its pool and its variable")
def test_cupys_pool_and_tf32(backend, monkeypatch):
    monkeypatch.setenv("CUPY_TF32", "1")
    finding = the(backend, "TF32")
    assert (finding.level, finding.remedy) == ("warning", "For full float32, start without CUPY_TF32.")
    monkeypatch.delenv("CUPY_TF32")
    pools = [finding for finding in backend.diagnose() if "keeps memory of" in finding.what]
    assert [pool.hardware for pool in pools] == [info.hardware for info in backend.devices()]
    assert all("cupy.get_default_memory_pool().free_all_blocks()" in pool.remedy for pool in pools)
