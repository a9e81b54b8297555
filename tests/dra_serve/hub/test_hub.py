"""Push and pull with the real huggingface_hub client, over HTTP, in processes of their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

import dra_serve
from dra_serve.hub import EVAL_RESULTS, FILES
from dra_serve.model_folder import read_folder, write_receipts
from dra_serve.sums import write_sums
from tests.dra_serve.hub.hub_server import TOKEN, Hub

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).parents[3]
REPO = "org/tiny"
LOGITS = """
import sys, numpy as np, dra_serve
model = dra_serve.load(sys.argv[1], revision=sys.argv[2] if len(sys.argv) > 2 else None)
print(model.logits(np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)).tobytes().hex())
"""

TRAINED = """
import sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
import dra_serve
from dra_serve.hub import push
from dra_serve.model_config import ModelConfig
from dra_serve.model_folder import write_config
from export.to_onnx import export
from training.networks import HubClassifier

folder, repo = Path(sys.argv[1]), sys.argv[2]
folder.mkdir()
config = ModelConfig(
    name="small", classes=("cat", "dog"), input_shape=(3, 8, 8),
    normalisation={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]},
    network={"name": "preact_resnet", "arguments": {"width": 8, "blocks": [1, 1], "stem": "plain"}},
    data={"name": "noise", "sha256": "0" * 64, "images": 1}, threat={"norm": "linf", "eps": "8/255"},
)
network = HubClassifier(**config.model_dump(include={"network", "normalisation", "classes", "input_shape"}))
save_file(network.eval().state_dict(), folder / "model.safetensors")
write_config(folder, config)
export(folder)
commit = push(folder, repo).rpartition("/")[2]
x = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
again = HubClassifier.from_pretrained(repo, revision=commit).eval()
with torch.no_grad():
    ours = again(torch.from_numpy(x))
    print(torch.equal(ours, network(torch.from_numpy(x))))
print(np.allclose(ours.numpy(), dra_serve.load(repo, revision=commit).logits(x), atol=1e-5))
"""


def logits(run: Run, source: str, *revision: str, **environment: str) -> str:
    done = run(sys.executable, "-c", LOGITS, source, *revision, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def expected(folder: Path) -> str:
    x = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
    return dra_serve.load(folder).logits(x).tobytes().hex()


def pushed(cli: Run, folder: Path, *options: str, **environment: str) -> str:
    """Push, and return the commit's sha out of the URL that is printed."""
    done = cli("push", folder, REPO, *options, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("/commit/")[2]


def refused(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the one sentence of a command that failed by the user's input."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    sentences = [line for line in done.stderr.splitlines() if line.startswith("dra-serve: ")]
    assert len(sentences) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return sentences[0]


def test_what_is_pushed_loads_to_bit_equal_logits_at_its_commit(
    hub: Hub, cli: Run, run: Run, tiny_onnx_folder
) -> None:
    folder = tiny_onnx_folder()
    sha = pushed(cli, folder)
    assert set(hub.repos[REPO].files(sha)) == {
        ".gitattributes",
        "config.json",
        "model.onnx",
        "model.gradient.onnx",
        "results.json",
        "README.md",
        "SHA256SUMS",
    }
    assert 'load("org/tiny")' in hub.repos[REPO].files(sha)["README.md"].decode()
    assert logits(run, REPO, sha) == expected(folder)
    assert not hub.repos[REPO].private


def test_a_second_push_is_another_commit_and_the_first_stays(
    hub: Hub, cli: Run, run: Run, tiny_onnx_folder
) -> None:
    old, new = tiny_onnx_folder("old", seed=0), tiny_onnx_folder("new", seed=1, gradient=False)
    first, second = pushed(cli, old), pushed(cli, new)
    assert pushed(cli, new) == second  # nothing changed: no empty commit
    assert first != second
    assert "model.gradient.onnx" not in hub.repos[REPO].files("main")  # the folder's, so the repository's
    assert logits(run, REPO, first) == expected(old)
    assert logits(run, REPO) == expected(new)


def test_large_files_go_through_lfs(hub: Hub, cli: Run, run: Run, tiny_onnx_folder) -> None:
    hub.lfs = (".onnx",)
    folder = tiny_onnx_folder()
    sha = pushed(cli, folder, HF_HUB_DISABLE_XET="1")
    assert len(hub.uploads) == 2
    assert logits(run, REPO, sha) == expected(folder)


def test_other_files_of_the_folder_stay_at_home(hub: Hub, cli: Run, tiny_onnx_folder, tmp_path: Path) -> None:
    folder = tiny_onnx_folder()
    (folder / "notes.txt").write_text("mine")
    write_sums(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    pushed(cli, folder)
    files = hub.repos[REPO].files("main")
    assert set(files) <= {".gitattributes", *FILES}
    assert b"notes.txt" not in files["SHA256SUMS"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "pulled").mkdir()
    assert cli("pull", REPO, "--to", tmp_path / "pulled").returncode == 0
    assert dra_serve.load(tmp_path / "pulled").name == "tiny"


def test_other_files_of_the_repository_are_not_fetched(
    hub: Hub, cli: Run, tiny_onnx_folder, tmp_path: Path
) -> None:
    pushed(cli, tiny_onnx_folder())
    hub.repos[REPO].commit("main", hub.repos[REPO].files("main") | {"evil.py": b"raise SystemExit"})
    done = cli("pull", REPO, "--to", tmp_path / "new" / "pulled", "--json")
    assert done.returncode == 0, done.stderr
    pulled = Path(json.loads(done.stdout)["path"])
    assert "evil.py" not in {path.name for path in pulled.iterdir()}
    assert not any("evil.py" in request for request in hub.log)
    assert not any(path.is_symlink() for path in pulled.iterdir())
    assert dra_serve.load(pulled).name == "tiny"


def test_after_one_load_it_works_offline(hub: Hub, cli: Run, run: Run, tiny_onnx_folder) -> None:
    folder = tiny_onnx_folder()
    sha = pushed(cli, folder)
    assert logits(run, REPO) == expected(folder)
    before = len(hub.log)
    assert logits(run, REPO, HF_HUB_OFFLINE="1") == expected(folder)
    assert logits(run, REPO, sha) == expected(folder)  # a pinned commit asks for nothing
    assert len(hub.log) == before
    assert logits(run, REPO, HF_ENDPOINT="http://127.0.0.1:9") == expected(folder)  # the Hub is down


@pytest.mark.parametrize("file", ["model.onnx", "config.json"])
def test_tampered_bytes_of_the_same_length_are_refused_by_name(
    hub: Hub, cli: Run, run: Run, tiny_onnx_folder, file: str
) -> None:
    folder = tiny_onnx_folder()
    pushed(cli, folder)
    hub.tamper(REPO, file)
    assert refused(cli("pull", REPO)).startswith(f"dra-serve: {file}: altered")
    hub.tamper(REPO, file)  # as it was: the damaged download was not kept
    assert logits(run, REPO) == expected(folder)


def test_a_branch_is_made_and_loads(hub: Hub, cli: Run, run: Run, tiny_onnx_folder) -> None:
    folder = tiny_onnx_folder()
    sha = pushed(cli, folder, "--revision", "next", "--private")
    assert hub.repos[REPO].branches["next"] == sha
    assert hub.repos[REPO].branches["main"] != sha
    assert hub.repos[REPO].private
    assert logits(run, REPO, "next") == expected(folder)


def test_export_command_pushes_too(hub: Hub, run: Run, tiny_onnx_folder) -> None:
    words = (sys.executable, ROOT / "export" / "push_to_hub.py")
    done = run(*words, tiny_onnx_folder(), REPO, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    sha = hub.repos[REPO].branches["main"]
    assert done.stdout.strip() == f"{hub.url}/{REPO}/commit/{sha}"
    failed = run(*words, "/nowhere", REPO, PYTHONPATH=str(ROOT))
    assert (failed.returncode, failed.stderr) == (2, "error: /nowhere: no such folder\n")


def test_a_trained_network_comes_back_into_torch_and_into_onnx(hub: Hub, run: Run, tmp_path: Path) -> None:
    done = run(sys.executable, "-c", TRAINED, tmp_path / "small", REPO, PYTHONPATH=str(ROOT))
    assert done.stdout.split()[-2:] == ["True", "True"], done.stderr
    card = hub.repos[REPO].files("main")["README.md"].decode()
    assert 'HubClassifier.from_pretrained("org/tiny")' in card


def test_pull_refuses_by_name(hub: Hub, cli: Run, tmp_path: Path) -> None:
    hub.create("org/other").commit("main", {"README.md": b"no model"})
    hub.create("org/secret", private=True)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    assert f"org/none: no such model repository on {hub.url}" in refused(cli("pull", "org/none"))
    assert "org/secret: no such model" in refused(cli("pull", "org/secret", HF_TOKEN=""))
    assert "org/other: has no revision 'v9'" in refused(cli("pull", "org/other", "--revision", "v9"))
    assert "org/other: holds no dra_serve model" in refused(cli("pull", "org/other"))
    assert "got 'tiny'; a repository on the Hub is ORG/NAME" in refused(cli("pull", "tiny"))
    assert "a folder that is new or empty" in refused(cli("pull", "org/other", "--to", full))
    away = cli("pull", "org/other", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "empty"))
    assert "org/other: http://127.0.0.1:9 cannot be reached" in refused(away)


def test_push_refuses_by_name_before_anything_is_made(hub: Hub, cli: Run, tiny_onnx_folder) -> None:
    folder = tiny_onnx_folder()
    assert "org/tiny: no token" in refused(cli("push", folder, REPO, HF_TOKEN=""))
    assert "ORG/NAME" in refused(cli("push", folder, "a/b/c"))
    wrong = refused(cli("push", folder, REPO, HF_TOKEN=f"not{TOKEN}"))
    assert f"org/tiny: {hub.url} answered 401" in wrong
    (folder / "config.json").write_text("{}")
    assert "config.json: altered" in refused(cli("push", folder, REPO))
    assert hub.repos == {}


def test_receipts_travel_as_eval_results_and_come_back(
    hub: Hub, cli: Run, tiny_onnx_folder, tmp_path
) -> None:
    folder = tiny_onnx_folder()
    mine = dra_serve.load(folder).sha256
    own, older = (_receipt(sha, value) for sha, value in ((mine, 0.4), ("f" * 64, 0.1)))
    write_receipts(folder, [own, older])
    write_sums(folder)
    pushed(cli, folder)
    text = hub.repos[REPO].files("main")[EVAL_RESULTS].decode()
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(yaml.safe_load(text))}
    assert entries["robust-linf-8-255"].value == 40.0
    assert entries["robust-linf-8-255"].source_url == f"{hub.url}/{REPO}/blob/main/results.json"
    pulled = tmp_path / "pulled"
    assert cli("pull", REPO, "--to", pulled).returncode == 0
    assert (pulled / EVAL_RESULTS).read_text(encoding="utf-8") == text
    assert len(read_folder(pulled).receipts) == 2
    write_receipts(pulled, [])  # nothing is claimed any more: the repository forgets it too
    write_sums(pulled)
    pushed(cli, pulled)
    assert EVAL_RESULTS not in hub.repos[REPO].files("main")


def _receipt(model_sha256: str, robust_accuracy: float) -> dict[str, object]:
    return {
        "suite": None,
        "attacks": [{"name": "pgd", "arguments": {"steps": 20, "eps": 8 / 255, "seed": 0}}],
        "norm": "linf",
        "eps": 8 / 255,
        "n": 10_000,
        "images": "all",
        "clean_accuracy": 0.7,
        "robust_accuracy": robust_accuracy,
        "robust_accuracy_8bit": robust_accuracy,
        "wilson_95": [0.1, 0.5],
        "model_sha256": model_sha256,
        "data": {"name": "cifar10", "split": "test", "sha256": "b" * 64},
        "warnings": [],
    }
