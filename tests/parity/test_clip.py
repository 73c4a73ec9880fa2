"""minidiff.clip against the installed transformers and open_clip: random small configurations, outputs and gradients.

The peer is made with random weights, saved by its own save_pretrained (open_clip: in the files that LAION publishes), and
loaded by ours. Then the same inputs must give the same numbers.
"""
import importlib
import json
import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("transformers")
pytest.importorskip("hypothesis")
from hypothesis import Phase, given, settings                                       # noqa: E402
from hypothesis import strategies as st                                             # noqa: E402
from transformers import (CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection,   # noqa: E402
                          CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection)

from minidiff import open_clip as layout                                            # noqa: E402
from minidiff.checkpoints import save_folder                                        # noqa: E402
from minidiff.clip import CLIP, CLIPImage, CLIPText                                 # noqa: E402

pytestmark = pytest.mark.parity
# Phase.generate: no search for a smaller example
several = settings(max_examples=15, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
VOCABULARY = 60


@st.composite
def towers(draw):
    """What the configs of both towers have in common."""
    heads, width = draw(st.integers(1, 4)), draw(st.sampled_from([4, 6, 8]))
    return dict(hidden_size=heads * width, num_attention_heads=heads, num_hidden_layers=draw(st.integers(1, 3)),
                intermediate_size=draw(st.integers(5, 40)), hidden_act=draw(st.sampled_from(["quick_gelu", "gelu"])),
                layer_norm_eps=draw(st.sampled_from([1e-5, 1e-4])))


@st.composite
def texts(draw):
    # 2 is what old configs say, and means the largest id
    return draw(towers()) | dict(vocab_size=VOCABULARY, max_position_embeddings=draw(st.integers(6, 12)),
                                 eos_token_id=draw(st.sampled_from([2, VOCABULARY - 1, 30])))


@st.composite
def visions(draw):
    patch = draw(st.integers(2, 5))
    return draw(towers()) | dict(patch_size=patch, image_size=draw(st.integers(1, 4)) * patch)


seeds, widths = st.integers(0, 2 ** 31), st.integers(3, 20)


def randomised(model, seed):
    """The model with weights under which every one of them matters: as they are made, biases are 0 and norms do nothing."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if p.ndim > 1:
            p.data = noise * p[0].numel() ** -0.5 if "embedding" not in name else noise
        else:
            p.data = 0.2 * noise + (p.ndim == 1 and name.endswith("weight"))
    return model.eval()


def prompts(config, seed):
    """(3, L) ids: anything, then the end token, then padding."""
    g, length = torch.Generator().manual_seed(seed), config["max_position_embeddings"]
    end = VOCABULARY - 1 if config["eos_token_id"] == 2 else config["eos_token_id"]
    ids = torch.randint(3, VOCABULARY - 1, (3, length), generator=g)
    ids[ids == end] = 4
    for row, at in zip(ids, torch.randint(1, length, (3,), generator=g)):
        row[at:] = end
        row[at + 1:] = end if at % 2 else 0
    return ids


def pictures(config, seed):
    return torch.randn(2, 3, config["image_size"], config["image_size"], generator=torch.Generator().manual_seed(seed))


def loaded(make, peer):
    """`make.from_pretrained` of what the peer saved, with gradients."""
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        return make.from_pretrained(folder, dtype=torch.float32).requires_grad_(True)


def assert_near(got, want, name=""):
    error = (got - want).abs().max() / want.abs().max()
    assert error < 1e-4, f"{name}: worst relative error {error:.1e}"


def assert_same_gradients(ours, outputs, peer, peer_outputs, names):
    """Both models learn from the same loss; `names` maps {peer's name: tensor} to our names."""
    for model, results in ((ours, outputs), (peer, peer_outputs)):
        sum((x * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).sum() for x in results).backward()
    got = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    want = names({name: p.grad for name, p in peer.named_parameters() if p.grad is not None})
    assert got.keys() == want.keys()
    largest = max(g.abs().max() for g in want.values())
    for name in want:
        if "k_proj.bias" in name:                 # a softmax does not change if a number is added to all of its inputs
            assert got[name].abs().max() < 1e-4 * largest
        elif want[name].abs().max() > 1e-5 * largest:
            assert_near(got[name], want[name], f"gradient of {name}")


def prefixed(prefix):
    parts = ("embeddings", "encoder", "final_layer_norm", "pre_layrnorm", "post_layernorm")
    return lambda tensors: {prefix + name if name.startswith(parts) else name: t for name, t in tensors.items()}


@several
@given(texts(), widths, seeds)
def test_text_encoders_give_the_peers_states_and_gradients(config, width, seed):
    ids = prompts(config, seed)
    for peer_class in (CLIPTextModel, CLIPTextModelWithProjection):
        peer = randomised(peer_class(CLIPTextConfig(**config, projection_dim=width)), seed)
        text, want = loaded(CLIPText, peer), peer(ids, output_hidden_states=True)
        last, pooled = text(ids)
        peer_pooled = want.text_embeds if peer_class is CLIPTextModelWithProjection else want.pooler_output
        assert_near(last, want.last_hidden_state)
        assert_near(text(ids, skip=1)[0], want.hidden_states[-2])
        assert_near(pooled, peer_pooled)
        assert_same_gradients(text, [last, pooled], peer, [want.last_hidden_state, peer_pooled], prefixed("text_model."))


@several
@given(visions(), widths, seeds)
def test_image_encoders_give_the_peers_states_and_gradients(config, width, seed):
    for peer_class in (CLIPVisionModel, CLIPVisionModelWithProjection):
        peer = randomised(peer_class(CLIPVisionConfig(**config, projection_dim=width)), seed)
        image, pixels = loaded(CLIPImage, peer), pictures(config, seed).requires_grad_()
        want = peer(pixels, output_hidden_states=True)
        (hidden, pooled) = image(pixels)
        peer_pooled = want.image_embeds if peer_class is CLIPVisionModelWithProjection else want.pooler_output
        assert_near(hidden, want.last_hidden_state)
        assert_near(image.vision_model(pixels)[-2], want.hidden_states[-2])
        assert_near(pooled, peer_pooled)
        assert_near(*(torch.autograd.grad(x.square().sum(), pixels, retain_graph=True)[0] for x in (pooled, peer_pooled)))
        wanted = [want.last_hidden_state, peer_pooled]
        assert_same_gradients(image, [hidden, pooled], peer, wanted, prefixed("vision_model."))


@several
@given(texts(), visions(), widths, seeds)
def test_the_whole_gives_the_peers_logits_and_gradients(text, vision, width, seed):
    peer = randomised(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)), seed)
    clip, ids, pixels = loaded(CLIP, peer), prompts(text, seed), pictures(vision, seed)
    want = peer(ids, pixels)
    text_embeds, image_embeds = (e / e.norm(dim=-1, keepdim=True) for e in clip(ids, pixels))
    logits = clip.logit_scale.exp() * image_embeds @ text_embeds.T
    assert_near(text_embeds, want.text_embeds)
    assert_near(image_embeds, want.image_embeds)
    assert_near(logits, want.logits_per_image)
    assert_same_gradients(clip, [logits], peer, [want.logits_per_image], dict)


@several
@given(texts(), visions(), widths, seeds)
def test_the_peer_loads_what_we_save(text, vision, width, seed):
    clip = randomised(CLIP(dict(text_config=text, vision_config=vision, projection_dim=width)), seed)
    ids, pixels = prompts(text, seed), pictures(vision, seed)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        save_folder(clip, clip.config, folder, "model.safetensors", torch.float32)
        want = CLIPModel.from_pretrained(folder).eval()(ids, pixels).logits_per_image
        text_embeds, image_embeds = (e / e.norm(dim=-1, keepdim=True) for e in clip(ids, pixels))
        assert_near(clip.logit_scale.exp() * image_embeds @ text_embeds.T, want)
        save_folder(clip.text, clip.text.config, folder, "model.safetensors", torch.float32)
        assert_near(clip.encode_text(ids), CLIPTextModelWithProjection.from_pretrained(folder).eval()(ids).text_embeds)


# open_clip

class Anything(type):
    """Makes classes that have every attribute: enough to be imported and named in a default argument."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class StandIn(types.ModuleType):
    """A module in which every name exists."""
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or Anything(name, (), {})


@pytest.fixture(scope="module")
def open_clip_class():
    """open_clip's CLIP. The package asks for torchvision, of which CLIP itself uses nothing; a stand-in will do."""
    pytest.importorskip("ftfy")
    names = [f"torchvision{rest}" for rest in ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc")]
    there = {name: sys.modules.get(name) for name in (*names, "timm")}
    try:
        sys.modules.update({name: StandIn(name) for name in names}, timm=None)
        return importlib.import_module("open_clip.model").CLIP
    except ImportError as error:
        pytest.skip(f"open_clip cannot be imported: {error}")
    finally:
        for name, module in there.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


@st.composite
def open_clips(draw):
    heads, head_width, patch = draw(st.integers(1, 4)), draw(st.sampled_from([4, 6, 8])), draw(st.integers(2, 5))
    return dict(embed_dim=draw(widths), quick_gelu=draw(st.booleans()),
                vision_cfg=dict(width=heads * head_width, head_width=head_width, layers=draw(st.integers(1, 3)),
                                mlp_ratio=draw(st.sampled_from([1.3, 4.0, 4.9231])), patch_size=patch,
                                image_size=draw(st.integers(1, 4)) * patch),
                text_cfg=dict(width=heads * 8, heads=heads, layers=draw(st.integers(1, 3)), vocab_size=VOCABULARY,
                              context_length=draw(st.integers(6, 12))))


@st.composite
def open_clip_resnets(draw):
    """An open_clip config whose image tower is a ResNet."""
    head_width = draw(st.sampled_from([32, 64]))
    vision = dict(width=draw(st.sampled_from([8, 16])), head_width=head_width, image_size=draw(st.sampled_from([32, 64])),
                  layers=draw(st.lists(st.integers(1, 2), min_size=4, max_size=4)), patch_size=None)
    return draw(open_clips()) | dict(vision_cfg=vision)


def opened(peer, config, dtype):
    """`CLIP.from_pretrained` of an open_clip model in the files that LAION publishes, with gradients."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / layout.CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        save_file(peer.state_dict(), Path(folder) / layout.WEIGHTS)
        return CLIP.from_pretrained(folder, dtype=dtype).requires_grad_(True)


def states_before_the_last_layer(peer, ids):
    """What open_clip's text tower hands to its last layer."""
    seen = []
    hook = peer.transformer.resblocks[-1].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    features = peer.encode_text(ids)
    hook.remove()
    return seen[0], features


@several
@given(config=open_clips(), seed=seeds)
def test_open_clips_own_layout_gives_its_features_and_gradients(open_clip_class, config, seed):
    peer = randomised(open_clip_class(**config), seed)
    ids = prompts(dict(max_position_embeddings=config["text_cfg"]["context_length"], eos_token_id=2), seed)
    pixels = pictures(config["vision_cfg"], seed)
    clip = opened(peer, config, torch.float32)
    penultimate, text = states_before_the_last_layer(peer, ids)
    image = peer.encode_image(pixels)
    got = [clip.text(ids, skip=1)[0], clip.encode_text(ids), clip.encode_image(pixels)]
    for name, ours, theirs in zip(("penultimate", "text", "image"), got, (penultimate, text, image)):
        assert_near(ours, theirs, name)
    assert_same_gradients(clip, got[1:], peer, [text, image], layout.our_names)


def with_statistics(peer, seed):
    """`peer` with running means and variances as after some training."""
    g = torch.Generator().manual_seed(seed)
    for name, buffer in peer.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=g))
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=g) + 0.5)
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(seed % 1000)
    return peer


@settings(several, max_examples=8)
@given(config=open_clip_resnets(), seed=seeds, training=st.booleans())
def test_resnets_give_open_clips_features_gradients_and_statistics(open_clip_class, config, seed, training):
    """In float64: with the statistics of a small batch, rounding alone would make gradients differ by more than is allowed."""
    peer = with_statistics(randomised(open_clip_class(**config), seed), seed).double()
    clip = opened(peer, config, torch.float64)
    ids = prompts(dict(max_position_embeddings=config["text_cfg"]["context_length"], eos_token_id=2), seed)
    pixels = torch.cat([pictures(config["vision_cfg"], seed + i) for i in range(3)]).double()
    peer.train(training), clip.train(training)
    want, got = [peer.encode_text(ids), peer.encode_image(pixels)], [clip.encode_text(ids), clip.encode_image(pixels)]
    for name, ours, theirs in zip(("text", "image"), got, want):
        assert_near(ours, theirs, name)
    assert_same_gradients(clip, got, peer, want, layout.our_names)
    theirs = layout.our_names(peer.state_dict())
    for name, ours in clip.state_dict().items():                                    # running means and variances too
        torch.testing.assert_close(ours, theirs[name], msg=lambda m: f"{name}: {m}")


def test_published_resnets_have_open_clips_keys_shapes_and_heads(open_clip_class):
    folder = Path(sys.modules["open_clip"].__file__).parent / "model_configs"
    paths = [path for path in sorted(folder.glob("RN*.json")) if "quickgelu" not in path.name]      # the same networks
    assert len(paths) >= 5
    for path in paths:
        config = json.loads(path.read_text())
        with torch.device("meta"):
            clip, peer = CLIP(config), open_clip_class(**config)
        want = {name: tuple(t.shape) for name, t in layout.our_names(peer.state_dict()).items()}
        assert {name: tuple(t.shape) for name, t in clip.state_dict().items()} == want, path.name
        assert clip.image.attnpool.heads == peer.visual.attnpool.num_heads, path.name
