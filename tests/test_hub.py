"""`python -m minidiff get`: which files are fetched, and what is said when they cannot be. No network: the hub is a fake."""
import re
import sys
import types
from pathlib import Path

import pytest

from minidiff.__main__ import main
from minidiff.checkpoints import CheckpointError
from minidiff.hub import MODELS, choose

SD1 = """.gitattributes README.md model_index.json v1-5-pruned.ckpt v1-5-pruned.safetensors v1-5-pruned-emaonly.safetensors
    feature_extractor/preprocessor_config.json safety_checker/config.json safety_checker/model.safetensors
    safety_checker/pytorch_model.bin scheduler/scheduler_config.json text_encoder/config.json
    text_encoder/model.fp16.safetensors text_encoder/model.safetensors text_encoder/pytorch_model.bin tokenizer/merges.txt
    tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json tokenizer/vocab.json unet/config.json
    unet/diffusion_pytorch_model.bin unet/diffusion_pytorch_model.fp16.safetensors
    unet/diffusion_pytorch_model.non_ema.safetensors unet/diffusion_pytorch_model.safetensors vae/config.json
    vae/diffusion_pytorch_model.bin vae/diffusion_pytorch_model.fp16.safetensors
    vae/diffusion_pytorch_model.safetensors""".split()
NEEDED = {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
          "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json",
          *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder"))}


class Hub(types.ModuleType):
    """A huggingface_hub whose repositories hold `files`, empty ones."""

    def __init__(self, folder, files, error=None, lost=()):
        super().__init__("huggingface_hub")
        self.folder, self.files, self.error, self.lost, self.asked = folder, files, error, lost, []

    def model_info(self, repo):
        if self.error:
            raise self.error
        return types.SimpleNamespace(siblings=[types.SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(self, repo, allow_patterns):
        self.asked.append((repo, allow_patterns))
        for name in set(allow_patterns) - set(self.lost):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).touch()
        return str(self.folder)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    def install(files=SD1, **more):
        module = Hub(tmp_path / "cache", files, **more)
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        return module
    return install


# ------------------------------------------------------------------------------------------------------------ which files

@pytest.mark.parametrize("variant, dot", [(None, ""), ("fp16", ".fp16")])
def test_only_the_files_that_are_read_are_fetched(variant, dot):
    weights = {f"{part}/diffusion_pytorch_model{dot}.safetensors" for part in ("unet", "vae")}
    assert set(choose(SD1, variant)) == NEEDED | weights | {f"text_encoder/model{dot}.safetensors"}


def test_pickles_are_fetched_only_where_there_is_nothing_else():
    files = [name for name in SD1 if not name.startswith("unet/") or not name.endswith("safetensors")]
    assert {"unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.safetensors"} < set(choose(files))
    assert "vae/diffusion_pytorch_model.bin" not in choose(files)


@pytest.mark.parametrize("variant, index", [
    (None, "model.safetensors.index.json"), ("fp16", "model.safetensors.index.fp16.json"),
    ("fp16", "model.fp16.safetensors.index.json")])
def test_shards_are_fetched_with_their_index_and_no_others(variant, index):
    dot = ".fp16" if variant else ""
    shards = [f"text_encoder_2/model{dot}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    others = ["text_encoder_2/model.bf16-00001-of-00002.safetensors", "text_encoder_2/model-00001-of-00002.bin"]
    got = choose(["text_encoder_2/config.json", f"text_encoder_2/{index}", *shards, *others], variant)
    assert set(got) == {"text_encoder_2/config.json", f"text_encoder_2/{index}", *shards}


def test_a_clip_is_fetched_in_the_layout_of_transformers_or_else_of_open_clip():
    files = ["README.md", "config.json", "open_clip_config.json", "open_clip_model.safetensors",
             "open_clip_pytorch_model.bin", "vocab.json", "merges.txt"]
    assert "open_clip_model.safetensors" in choose(files) and "open_clip_pytorch_model.bin" not in choose(files)
    assert "open_clip_model.safetensors" not in choose([*files, "model.safetensors"])
    assert "model.safetensors" in choose([*files, "model.safetensors"])


@pytest.mark.parametrize("files, variant, message", [
    (SD1, "bf16", "no weights for variant='bf16' in its folder unet, only for None and 'fp16' and 'non_ema'"),
    (["unet/config.json", "unet/flax_model.msgpack"], None, "in its folder unet, only for other programs"),
    (["README.md", "lora.safetensors"], None, "no weights that minidiff reads"),
    ([], None, "no weights that minidiff reads"),
])
def test_a_repository_without_the_weights_asked_for_is_an_error(files, variant, message):
    with pytest.raises(CheckpointError, match=message):
        choose(files, variant)


# ------------------------------------------------------------------------------------------------------------ the command

@pytest.mark.parametrize("name", MODELS)
def test_each_name_asks_for_its_repository_and_says_how_to_go_on(fake, capsys, name):
    files = [f"{path}.safetensors" for path in MODELS[name].weights]
    configs = [str(Path(path).with_name("config.json")) for path in files]
    module = fake([*files, *configs])
    assert main(["get", name]) == 0
    assert module.asked == [(MODELS[name].repo, choose(module.files))]
    printed = capsys.readouterr().out
    assert f"{name} is in {module.folder}\n" in printed
    use = re.search(r"minidiff\.(load|CLIP\.from_pretrained|Prior\.from_pretrained)\((.*)\)\n", printed)
    assert repr(str(module.folder)) in use[2]


def test_any_other_repository_may_be_named(fake, capsys):
    module = fake()
    assert main(["get", "some.body/my_model-1", "--variant", "fp16"]) == 0
    assert module.asked[0][0] == "some.body/my_model-1"
    assert f"minidiff.load({str(module.folder)!r}, variant='fp16')" in capsys.readouterr().out
    module = fake(["config.json", "model.safetensors"])
    (module.folder / "model_index.json").unlink()
    assert main(["get", "some.body/part"]) == 0
    assert f"python -m minidiff info {module.folder}" in capsys.readouterr().out


def refusal(capsys, *argv):
    assert main(["get", *argv]) == 2
    out, error = capsys.readouterr()
    assert not out and error.startswith("minidiff: ") and "Traceback" not in error
    return error


@pytest.mark.parametrize("name", ["sd3", "", "a/b/c", "../etc", "a b/c", "https://huggingface.co/a/b"])
def test_an_unknown_name_is_answered_with_the_known_ones(fake, capsys, name):
    module = fake()
    assert all(known in refusal(capsys, name) for known in MODELS)
    assert not module.asked


@pytest.mark.parametrize("name, variant, lines", [
    ("sd1", None, ["unet/diffusion_pytorch_model.safetensors (3,438,167,540 bytes)", "vae/config.json", "model_index.json",
                   "text_encoder/model.safetensors (492,265,874 bytes)", "tokenizer/*.json and *.txt"]),
    ("sd1", "fp16", ["unet/diffusion_pytorch_model.fp16.safetensors (1,719,125,304 bytes)"]),
    ("sdxl", None, ["text_encoder_2/model.safetensors (2,778,702,264 bytes)", "tokenizer_2/*.json and *.txt"]),
    ("clip-l", None, ["model.safetensors (1,710,540,580 bytes)", "config.json"]),
    ("clip-h", None, ["open_clip_model.safetensors (3,944,517,836 bytes)", "open_clip_config.json"]),
    ("kandinsky2.2", None, ["movq/diffusion_pytorch_model.safetensors (271,380,364 bytes)", "unet/config.json"]),
    ("sd2", "fp16", ["unet/diffusion_pytorch_model.fp16.safetensors"]),
])
@pytest.mark.parametrize("why", ["no network", "no extra"])
def test_without_extra_or_network_it_says_what_to_put_where(fake, monkeypatch, capsys, why, name, variant, lines):
    if why == "no extra":
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    else:
        fake(error=ConnectionError("name or service not known\nand much more"))
    error = refusal(capsys, name, *(["--variant", variant] if variant else []))
    said = [line.strip() for line in error.splitlines()]
    assert all(line in said for line in lines) and f"https://huggingface.co/{MODELS[name].repo}/tree/main" in error
    assert ("pip install huggingface_hub" if why == "no extra" else "name or service not known. Or fetch") in error
    assert "much more" not in error


def test_an_error_of_a_repository_that_is_not_in_the_table_names_its_page(fake, capsys):
    fake(error=RuntimeError("404"))
    assert "a/b cannot be downloaded: 404. Or fetch its files from https://huggingface.co/a/b" in refusal(capsys, "a/b")


def test_a_variant_that_is_not_there_is_an_error_and_nothing_is_fetched(fake, capsys):
    module = fake()
    assert "CompVis/stable-diffusion-v1-4 cannot be used: it has no weights for variant='bf16'" in refusal(
        capsys, "sd1.4", "--variant", "bf16")
    assert not module.asked


def test_a_snapshot_that_lacks_a_file_is_not_taken_for_complete(fake, capsys):
    """The hub's cache hands out an old, partial snapshot when the network fails half way."""
    fake(lost=["vae/config.json"])
    assert "lacks vae/config.json; run the command again" in refusal(capsys, "sd1")


def test_ctrl_c_is_no_traceback(fake, capsys):
    fake(error=KeyboardInterrupt())
    assert main(["get", "sd1"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_help_lists_the_names(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["get", "--help"])
    assert stopped.value.code == 0
    assert all(f"  {name} " in capsys.readouterr().out for name in list(MODELS)[:1])
