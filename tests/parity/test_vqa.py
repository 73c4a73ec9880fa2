"""minidiff.vqa.Blip2 on a tiny BLIP-2 with random weights, as transformers writes it: the answer is what transformers itself says."""
import pytest
import torch

pytest.importorskip("transformers")
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor, PreTrainedTokenizerFast)

from minidiff.checkpoints import CheckpointError
from minidiff.images import to_pillow
from minidiff.vqa import Blip2

pytestmark = pytest.mark.parity
WORDS = ["<pad>", "</s>", "<unk>", "<image>", "what", "kind", "of", "pet", "is", "in", "this", "photo", "?", "cat", "dog", "fish", "house", "a"]
QUESTION = "what kind of pet is in this photo ?"
SEED = 0                                          # of weights that say different things about different pictures
SMALL = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip2")
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    processor = Blip2Processor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer, num_query_tokens=2)
    processor.save_pretrained(folder)
    t5 = dict(model_type="t5", d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2, vocab_size=len(tokenizer),
              decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    config = Blip2Config(vision_config=dict(SMALL, image_size=16, patch_size=8), text_config=t5, num_query_tokens=2,
                         qformer_config=dict(SMALL, encoder_hidden_size=16, vocab_size=len(tokenizer)), image_token_index=WORDS.index("<image>"))
    torch.manual_seed(SEED)
    model = Blip2ForConditionalGeneration(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=1.0)
    model.save_pretrained(folder)
    return folder


def test_it_answers_what_transformers_answers_and_looks_at_the_picture(folder):
    ask, answers = Blip2(folder), []
    model, processor = Blip2ForConditionalGeneration.from_pretrained(folder).eval(), Blip2Processor.from_pretrained(folder)
    for seed in range(4):
        image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(seed)) ** (seed + 1)
        inputs = processor(images=to_pillow(image), text=QUESTION, return_tensors="pt")
        with torch.no_grad():
            want = processor.batch_decode(model.generate(**inputs, max_new_tokens=20), skip_special_tokens=True)[0].strip()
        answers.append(ask(image, QUESTION))
        assert answers[-1] == want and set(answers[-1].split()) <= set(WORDS)
    assert len(set(answers)) > 1 and not any(p.requires_grad and p.grad is not None for p in ask.model.parameters())


def test_what_is_no_blip2_is_refused_in_a_sentence(folder, tmp_path):
    with pytest.raises(CheckpointError, match="no folder with a BLIP-2 in safetensors"):
        Blip2(tmp_path)
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="no folder with a BLIP-2 in safetensors"):
        Blip2(tmp_path)
