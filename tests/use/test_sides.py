"""Answers that stand in the data, also inside whole dialogues."""

import json

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

import redpencil as rp
from redpencil.cli.main import main
from redpencil.recipes.asking import JudgeRecipe
from redpencil.use.judging import judge
from redpencil.world.tokenizer import world_tokenizer

TALK = "\n\nHuman: Why is it {}?\n\nAssistant: {}"


def test_of_a_dialogue_the_last_answer_is_judged(tmp_path):
    rows = [
        {"chosen": TALK.format(n, "Because of the light."), "rejected": TALK.format(n, "No.")}
        for n in ("blue", "red", "grey")
    ]
    data = tmp_path / "talks.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = judge(
        JudgeRecipe(
            a="data:chosen",
            b="data:rejected",
            data=str(data),
            by="toy_rewards:longer",
            out=str(tmp_path / "judged"),
        )
    )
    assert result["win_rate"] == 1.0
    assert result["prompts"] == 3


def test_generate_says_which_prompt_leaves_no_room(tmp_path, capsys):
    """Where positions are learned; rotary ones go on."""
    base = tmp_path / "gpt2"
    tokenizer = world_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = {**ends, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **config)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    data = tmp_path / "prompts.jsonl"
    data.write_text('{"prompt": "The plot"}\n')
    out = tmp_path / "new" / "out.jsonl"
    asked = ["generate", str(base), "--data", str(data), "--out", str(out)]
    assert main([*asked, "--max-new-tokens", "127"]) == 2
    assert "prompts.jsonl, row 1 has a prompt of" in capsys.readouterr().err
    assert main([*asked, "--max-new-tokens", "4"]) == 0
    assert out.is_file()


def test_where_a_policy_stands(base):
    """Against itself the KL is 0 exactly; rewards are means over each prompt's completions."""
    model = rp.load(base)

    def by_prompt(prompts, responses, rows):
        return [float(len(p)) for p in prompts]

    prompts = ["The plot", "The cast was"]
    point = rp.reward_and_kl(model, model, prompts, by_prompt, num=3, max_new_tokens=6)
    assert point.kl.value == pytest.approx(0, abs=1e-12)
    assert point.reward_P.tolist() == [8.0, 12.0]
    drawn = rp.sampled_rewards(model, prompts, by_prompt, num=3, max_new_tokens=6)
    assert drawn.tolist() == [[8.0] * 3, [12.0] * 3]


@pytest.mark.parametrize("missing", ["/nowhere/runs/b", "data:chosn"])
def test_a_side_that_is_not_there_is_noticed_before_the_other_one_is_sampled(
    base, tmp_path, capsys, monkeypatch, missing
):
    def sampled(*args, **kwargs):
        raise AssertionError("A was sampled")

    monkeypatch.setattr("redpencil.use.sides.complete", sampled)
    data = tmp_path / "prompts.jsonl"
    data.write_text('{"prompt": "The plot", "chosen": "was good."}\n')
    asked = ["judge", str(base), missing, "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([*asked, "--by", "toy_rewards:longer", "--max-new-tokens", "4"]) == 2
    said = capsys.readouterr().err
    assert missing.removeprefix("data:") in said and "Traceback" not in said
