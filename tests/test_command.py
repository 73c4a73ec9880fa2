"""Options in front of the verb, numbers out of range, and what goes wrong while a verb runs."""
import argparse

import pytest
import torch

from minidiff import checkpoints, command


def parser():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--steps", type=int, default=5)
    whole = argparse.ArgumentParser(prog="paper.py", parents=[common])
    whole.add_subparsers(dest="verb").add_parser("train", parents=[common])
    return whole


def test_options_in_front_of_the_verb_are_refused_because_argparse_would_forget_them(capsys):
    assert command.parse(parser(), ["--steps", "7"]).steps == 7 and command.parse(parser(), ["train", "--steps", "7"]).steps == 7
    assert parser().parse_args(["--steps", "7", "train"]).steps == 5
    with pytest.raises(SystemExit):
        command.parse(parser(), ["--steps", "7", "train"])
    assert "options come after the verb: train --steps ..." in capsys.readouterr().err


@pytest.mark.parametrize("error, status, said", [(ValueError("no such word"), 2, "paper.py: no such word"), (OSError("disk full"), 2, "disk full"),
                                                 (torch.OutOfMemoryError("CUDA"), 2, "smaller --batch"), (KeyboardInterrupt(), 130, "stopped")])
def test_what_goes_wrong_is_one_sentence_and_a_mistake_of_ours_is_not_hidden(error, status, said, capsys):
    def verb(args):
        raise error
    with pytest.raises(SystemExit) as stopped:
        command.run("paper.py", verb, None)
    assert stopped.value.code == status and said in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        command.run("paper.py", lambda args: 1 / args, 0)


def test_numbers_out_of_range_are_named():
    limits = {"batch_size": (1, 8), "lr": (0, 1), "sizes": (0, 1)}
    command.within(argparse.Namespace(batch_size=8, lr=None, sizes=[7]), limits)
    with pytest.raises(ValueError, match="--batch-size is 0, expected a number between 1 and 8"):
        command.within(argparse.Namespace(batch_size=0), limits)


def test_a_file_that_cannot_be_written_is_an_os_error_and_what_fails_while_it_is_computed_stays_what_it_is(tmp_path, monkeypatch):
    def full(error):
        def save(*given, **how):
            raise error
        return save
    monkeypatch.setattr(checkpoints, "save_file", full(checkpoints.SafetensorError("I/O error: No space left on device")))
    with pytest.raises(OSError, match="cannot write .*a.safetensors: .*No space left"):
        checkpoints.write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    monkeypatch.setattr(torch, "save", full(RuntimeError("PytorchStreamWriter failed writing file")))
    with pytest.raises(OSError, match="cannot write .*a.pt: .*failed writing"):
        checkpoints.write_pickle(tmp_path / "a.pt", {})
    with pytest.raises(torch.OutOfMemoryError):                 # caches are computed while they are written
        checkpoints.write_atomically(tmp_path / "a.npy", full(torch.OutOfMemoryError("CUDA")))
    assert not list(tmp_path.iterdir())
