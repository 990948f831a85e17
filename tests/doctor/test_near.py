"""Shingles, MinHash, near duplicates: likeness by hand, planted ones found, no false ones."""

import itertools
import random

import numpy as np
import pytest

from redpencil.doctor.numbers.minhash import BANDS, EMPTY, ROWS, band_keys, signatures
from redpencil.doctor.numbers.near import ALIKE, NearDuplicates, same_key_pairs
from redpencil.doctor.numbers.shingles import (
    COMMON_AT_LEAST,
    CommonShingles,
    bare,
    jaccard,
    normal,
    shingle_hashes,
)
from redpencil.doctor.view import View, as_text, hash_of
from redpencil.types import Origin

SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def words(rng, count):
    return ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) for _ in range(count)]


def text(rng, count=40):
    return " ".join(words(rng, count))


def view_of(number, prompt, *responses):
    pairs = ((0, 1),) if len(responses) == 2 else ()
    return View(Origin("f", number), prompt, responses, pairs, hash_of(prompt), True)


def findings(rows):
    check = NearDuplicates()
    for row in rows:
        check.see(row)
    return {f.key: f for f in check.findings(len(rows))}


def test_normal_and_bare_texts():
    assert normal("  A\tB\n c ") == "a b c"
    assert normal("\u1112\u1161\u11ab") == "한"  # one syllable out of its three letters
    assert bare("What, now?!") == bare("what now") == "what now"
    assert bare("?!") == "?!"


def test_shingles_of_a_text_are_as_many_as_its_characters():
    hashes, owner = shingle_hashes(["abcdef", "", "abcdef", "xabcde"])
    assert owner.tolist() == [0] * 6 + [2] * 6 + [3] * 6
    assert (hashes[:6] == hashes[6:12]).all()
    # "abcde" is in "abcdef" and in "xabcde"; all else differs.
    assert len(set(hashes[:6].tolist()) & set(hashes[12:].tolist())) == 1


def test_jaccard_by_hand():
    one, other = np.array([1, 2, 3, 4], np.uint64), np.array([3, 4, 5], np.uint64)
    assert jaccard(one, other) == 2 / 5
    assert jaccard(one, one) == 1.0
    assert jaccard(one[:0], one[:0]) == 1.0


def test_signatures_estimate_the_likeness():
    """Sets of 400 that share 300: J = 300 / 500 = 0.6. Of 200 x 60 places the share that is equal
    is 0.6 within three standard errors (0.0045 each; places of one signature are nearly
    independent)."""
    rng = np.random.default_rng(0)
    hashes, owner = [], []
    for pair in range(200):
        universe = rng.integers(2**63, size=500, dtype=np.uint64) * np.uint64(2)
        hashes += [universe[:400], universe[100:]]
        owner += [np.full(400, 2 * pair), np.full(400, 2 * pair + 1)]
    made = signatures(np.concatenate(hashes), np.concatenate(owner), 400)
    assert (made[::2] == made[1::2]).mean() == pytest.approx(0.6, abs=3 * 0.0045)


def test_a_short_text_has_a_full_signature_and_an_empty_one_has_no_key():
    """Ten shingles leave most of the 60 places empty: these take what others have."""
    hashes, owner = shingle_hashes(["ten shingl", ""])
    made = signatures(hashes, owner, 2)
    assert (made[0] != EMPTY).all()
    assert (made[1] == EMPTY).all()
    keys = band_keys(made)
    assert (keys[0] != 0).all()
    assert (keys[1] == 0).all()


def test_bands_propose_alike_texts_with_the_stated_probability():
    """1 - (1 - 0.8^5)^12 = 0.99 at likeness 0.8."""
    stated = 1 - (1 - 0.8**ROWS) ** BANDS
    assert stated == pytest.approx(0.991, abs=1e-3)
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        universe = rng.integers(2**63, size=450, dtype=np.uint64) * np.uint64(2)
        both = np.concatenate([universe[:405], universe[45:]])  # J = 360 / 450
        keys = band_keys(signatures(both, np.repeat([0, 1], [405, 405]), 2))
        hits += bool((keys[0] == keys[1]).any())
    assert hits >= 300 * 0.97


def test_planted_near_duplicates_are_found_and_nothing_else():
    rng = random.Random(0)
    rows = [(text(rng, 12), text(rng), text(rng)) for _ in range(2000)]
    copied = {1000 + 10 * i: 7 * i for i in range(50)}
    for number, of in copied.items():
        prompt, chosen, rejected = rows[of]
        changed = chosen.split()
        changed[20] = "otherword"
        rows[number] = (prompt, " ".join(changed), rejected)
    found = findings([view_of(n, *row) for n, row in enumerate(rows)])
    assert set(found) == {"near-duplicate"}
    assert found["near-duplicate"].count == 50
    assert [o.row for o in found["near-duplicate"].rows] == sorted(copied)[:20]
    assert "otherword" in found["near-duplicate"].example


def test_what_is_proposed_is_what_comparing_all_pairs_gives():
    rng = random.Random(5)
    base = [text(rng, 20) for _ in range(12)]
    texts = []
    for one in base:
        for changes in (0, 1, 2, 4, 8, 16):
            changed = one.split()
            for place in rng.sample(range(20), changes):
                changed[place] = words(rng, 1)[0]
            texts.append(" ".join(changed))
    common = CommonShingles()
    sets = [common.of(t) for t in texts]
    alike = {
        b
        for a, b in itertools.combinations(range(len(texts)), 2)
        if jaccard(sets[a], sets[b]) >= ALIKE
    }
    found = findings([view_of(n, f"p{n // 6}", t) for n, t in enumerate(texts)])
    assert len(alike) > 10
    assert found["near-duplicate"].count == len(alike)


def test_rows_on_one_prompt_are_no_duplicates():
    rng = random.Random(1)
    prompt = text(rng, 300)
    assert findings([view_of(n, prompt, text(rng, 8), text(rng, 8)) for n in range(200)]) == {}


def test_questions_in_one_template_are_no_duplicates():
    rng = random.Random(2)
    frame = text(rng, 60)
    rows = [view_of(n, f"{frame}: {text(rng, 6)}", " Yes", " No") for n in range(300)]
    assert findings(rows) == {}


def test_other_numbers_are_another_question():
    rng = random.Random(3)
    story, answer = text(rng, 60), text(rng, 60)
    rows = [view_of(n, f"{story} {n} apples", f"{answer} {n}", "no idea") for n in range(15)]
    assert findings(rows) == {}


def test_exact_copies_and_exact_contradictions_are_left_to_others():
    rng = random.Random(4)
    row = (text(rng), text(rng), text(rng))
    turned = (row[0], row[2], row[1])
    assert findings([view_of(n, *row) for n in range(5)] + [view_of(9, *turned)]) == {}


def test_a_nearly_equal_pair_labelled_the_other_way():
    rng = random.Random(6)
    prompt, chosen, rejected = text(rng, 12), text(rng), text(rng)
    rows = [view_of(n, text(rng, 12), text(rng), text(rng)) for n in range(50)]
    rows[10] = view_of(10, prompt, chosen, rejected)
    rows[40] = view_of(40, prompt, f"{rejected} indeed", chosen)
    found = findings(rows)
    assert set(found) == {"near-both-ways"}
    assert [o.row for o in found["near-both-ways"].rows] == [40]


def test_spaces_and_capitals_are_no_difference():
    found = findings([view_of(1, "A b", "yes it is", "no"), view_of(2, "a  B", "Yes it is", "no")])
    assert found["near-duplicate"].count == 1
    rng = random.Random(7)
    one = (text(rng), text(rng), text(rng))
    found = findings([view_of(1, *one), view_of(2, *(t.upper() for t in one))])
    assert "likeness 1.00" in found["near-duplicate"].example


def test_common_shingles_are_those_of_many_rows():
    texts = [f"the same beginning, {n:x}{n * 7919:x}" for n in range(10 * COMMON_AT_LEAST)]
    hashes, owner = shingle_hashes(texts)
    common = CommonShingles()
    common.learn(hashes, owner, len(texts))
    assert len(common.of("the same beginning, ")) < 6  # its end is not the others' middle
    assert len(common.of("quite another sentence")) == 22


def test_rows_with_equal_keys_meet_their_next_neighbours_only():
    keys = np.zeros(1000, dtype=np.uint64) + np.uint64(3)
    pairs = same_key_pairs(keys, np.arange(1000))
    assert len(pairs) == 4 * 1000 - (1 + 2 + 3 + 4)
    assert same_key_pairs(np.arange(5, dtype=np.uint64), np.arange(5)).tolist() == []


def test_memory_is_bounded_by_a_block():
    check = NearDuplicates()
    held = []
    rng = random.Random(8)
    sentences = [text(rng, 30) for _ in range(50)]
    for number in range(6000):
        check.see(view_of(number, f"{number}", *rng.sample(sentences, 2)))
        held.append(len(check._block))
    assert max(held) <= 2048
    assert check._exact.itemsize * len(check._exact) == 8 * 6000
    check._spool.close()


def test_token_ids_are_compared_as_characters():
    rng = np.random.default_rng(9)
    ids = [rng.integers(0, 250_000, size=60).astype(np.int32) for _ in range(3)]
    nearly = ids[1].copy()
    nearly[30] = 5
    rows = [
        view_of(1, *map(as_text, ids)),
        view_of(2, as_text(ids[0]), as_text(nearly), as_text(ids[2])),
    ]
    assert findings(rows)["near-duplicate"].count == 1
