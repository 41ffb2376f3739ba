from __future__ import annotations

import numpy as np

from nextclick.trainer.evaluate import Evaluation, gate
from nextclick.trainer.evaluate.gate import POPULARITY, Decision


def hitting(share: float, cases: int = 1000, seed: int = 0) -> Evaluation:
    """An evaluation that hits a share of the cases, at random but by rank 1 or 100."""
    order = np.random.default_rng(seed).permutation(cases)
    return Evaluation(np.where(order < share * cases, 1, 100), auc=0.5)


def decide(
    candidate: Evaluation,
    champion: Evaluation | None,
    popularity: Evaluation,
    knn: Evaluation | None = None,
    k: int = 10,
) -> Decision:
    """Every case is a user of its own."""
    baselines = {POPULARITY: popularity, **({"V-SkNN": knn} if knn else {})}
    return gate.decide(candidate, champion, baselines, np.arange(len(candidate.ranks)), k)


def test_a_first_model_that_beats_popularity_is_published() -> None:
    assert decide(hitting(0.5), None, hitting(0.3)).publish


def test_a_model_that_popularity_beats_is_refused_with_the_numbers() -> None:
    decision = decide(hitting(0.3), None, hitting(0.3))
    assert not decision.publish
    assert "0.3000" in decision.reason
    assert "popularity" in decision.reason


def test_worse_than_the_champion_beyond_noise_is_refused_with_the_numbers() -> None:
    decision = decide(hitting(0.4, seed=1), hitting(0.5, seed=2), hitting(0.3))
    assert not decision.publish
    assert "worse than the champion" in decision.reason
    assert "candidate 0.4000" in decision.reason
    assert "champion 0.5000" in decision.reason


def test_worse_within_noise_is_published() -> None:
    assert decide(hitting(0.49, seed=1), hitting(0.5, seed=2), hitting(0.3)).publish


def test_noise_is_that_of_the_paired_difference() -> None:
    """One case in a thousand worse and none better: certain, though the means hardly differ."""
    champion = hitting(0.5)
    ranks = champion.ranks.copy()
    ranks[np.flatnonzero(ranks == 1)[:10]] = 100
    assert not decide(Evaluation(ranks, 0.5), champion, hitting(0.3)).publish


def test_where_the_champion_does_not_beat_popularity_the_candidate_need_not() -> None:
    assert decide(hitting(0.25, seed=1), hitting(0.25, seed=2), hitting(0.3)).publish


def test_a_model_that_hits_nothing_is_never_published() -> None:
    assert not decide(hitting(0.0), hitting(0.0), hitting(0.0)).publish


def test_without_cases_nothing_is_published() -> None:
    assert not decide(hitting(0.5, cases=0), None, hitting(0.3, cases=0)).publish


def test_a_candidate_that_is_the_champion_again_is_refused() -> None:
    decision = decide(hitting(0.5), hitting(0.5), hitting(0.3))
    assert not decision.publish
    assert "exactly as the champion" in decision.reason


def differing(gained: int, lost: int, cases: int = 1000) -> tuple[Evaluation, Evaluation]:
    """A candidate and its champion, which hits half: so many hits more here, fewer there."""
    champion = np.where(np.arange(cases) < cases // 2, 1, 100)
    candidate = champion.copy()
    candidate[:lost] = 100
    candidate[cases // 2 : cases // 2 + gained] = 1
    return Evaluation(candidate, 0.5), Evaluation(champion, 0.5)


def test_noise_is_what_the_bootstrap_says() -> None:
    """101 cases changed sides: 15 lost on balance are 1.5 standard errors, 25 are 2.5."""
    candidate, champion = differing(gained=43, lost=58)
    assert decide(candidate, champion, hitting(0.3)).publish
    candidate, champion = differing(gained=38, lost=63)
    decision = decide(candidate, champion, hitting(0.3))
    assert not decision.publish
    assert "difference -0.0250, 95 % interval -0.04" in decision.reason
    assert "1000 cases" in decision.reason


def test_more_cases_make_the_same_difference_certain() -> None:
    few, many = differing(10, 13, cases=200), differing(1000, 1300, cases=20_000)
    assert decide(*few, hitting(0.3, cases=200)).publish
    assert not decide(*many, hitting(0.3, cases=20_000)).publish


def test_beaten_by_the_popularity_list_that_the_champion_beats_is_refused() -> None:
    candidate, champion, popularity = hitting(0.308, seed=1), hitting(0.31, seed=2), hitting(0.309)
    decision = decide(candidate, champion, popularity)
    assert not decision.publish
    assert "no better than popularity" in decision.reason
    assert decide(candidate, champion, hitting(0.307)).publish


def test_one_case_is_judged_too() -> None:
    hit, miss = Evaluation(np.array([1]), 0.5), Evaluation(np.array([50]), 0.5)
    assert decide(hit, None, miss).publish
    assert decide(hit, miss, miss).publish
    assert not decide(miss, hit, miss).publish


def test_k_decides_what_a_hit_is() -> None:
    third, sixth = Evaluation(np.array([3] * 9), 0.5), Evaluation(np.array([6] * 9), 0.5)
    assert decide(third, None, sixth, k=5).publish
    assert not decide(third, None, sixth, k=10).publish


def test_a_method_that_the_champion_beats_must_be_beaten() -> None:
    decision = decide(hitting(0.49, seed=1), hitting(0.5, seed=2), hitting(0.3), knn=hitting(0.495))
    assert not decision.publish
    assert "no better than V-SkNN" in decision.reason
    assert "V-SkNN 0.4950" in decision.reason


def test_where_the_champion_does_not_beat_the_neighbours_the_candidate_need_not() -> None:
    assert decide(hitting(0.5, seed=1), hitting(0.5, seed=2), hitting(0.3), hitting(0.6)).publish


def test_a_first_model_need_only_beat_what_is_served_without_it() -> None:
    assert decide(hitting(0.5), None, hitting(0.3), knn=hitting(0.6)).publish


def test_every_baseline_that_won_is_named() -> None:
    decision = decide(hitting(0.3, seed=1), hitting(0.32, seed=2), hitting(0.31), hitting(0.315))
    assert not decision.publish
    assert "no better than popularity and V-SkNN" in decision.reason


def test_users_are_drawn_whole() -> None:
    """Ten users of a hundred cases each: what looks certain by cases is one user's mood."""
    champion = Evaluation(np.full(1000, 1), 0.5)
    ranks = champion.ranks.copy()
    ranks[:60] = 100
    candidate, popularity = Evaluation(ranks, 0.5), {POPULARITY: hitting(0.3)}
    apart = gate.decide(candidate, champion, popularity, np.arange(1000))
    together = gate.decide(candidate, champion, popularity, np.arange(1000) // 100)
    assert not apart.publish
    assert together.publish


def test_each_user_counts_once() -> None:
    """A user of 900 cases is hit by the candidate alone, 100 users of one case by the champion."""
    users = np.r_[np.zeros(900, np.int64), np.arange(1, 101)]
    candidate, champion = (
        Evaluation(np.where((users == 0) == mine, 1, 100), 0.5) for mine in (1, 0)
    )
    decision = gate.decide(candidate, champion, {POPULARITY: hitting(0.0)}, users)
    assert decision.refusal == "worse"
    assert "candidate 0.0099" in decision.reason
    assert "1000 cases of 101 users" in decision.reason


def test_every_refusal_has_its_word() -> None:
    half = hitting(0.5)
    words = {
        "no_cases": decide(hitting(0.5, cases=0), None, hitting(0.3, cases=0)),
        "same": decide(half, half, hitting(0.3)),
        "worse": decide(hitting(0.4, seed=1), hitting(0.5, seed=2), hitting(0.3)),
        "baseline": decide(hitting(0.3), None, hitting(0.3)),
    }
    assert {word: decision.refusal for word, decision in words.items()} == {w: w for w in words}
    assert decide(half, None, hitting(0.3)).refusal == ""


def claiming(probability: float, right: float, cases: int = 1000, seed: int = 0) -> Evaluation:
    """An evaluation whose first items claim a probability and are right in another share."""
    ranks = hitting(right, cases, seed).ranks
    return Evaluation(ranks, auc=0.5, first_p=np.full(cases, probability))


def test_a_model_whose_probabilities_broke_is_refused_with_the_numbers() -> None:
    decision = decide(claiming(0.7, 0.5), claiming(0.52, 0.49, seed=2), hitting(0.3))
    assert (decision.publish, decision.refusal) == (False, "calibration")
    assert "off by 0.200" in decision.reason
    assert "champion 0.0" in decision.reason


def test_probabilities_within_noise_or_no_worse_than_the_champions_are_published() -> None:
    for cases in (60, 1000):  # few cases are far off by chance
        champion = claiming(0.5, 0.5, cases, seed=2)
        assert decide(claiming(0.53, 0.5, cases), champion, hitting(0.3, cases)).publish
    assert decide(claiming(0.7, 0.5), claiming(0.75, 0.49, seed=2), hitting(0.3)).publish
    # Both are off, the candidate a little more: by chance.
    assert decide(claiming(0.62, 0.5), claiming(0.61, 0.5, seed=2), hitting(0.3)).publish
    assert decide(claiming(0.7, 0.5), None, hitting(0.3)).publish


def judged(differences: dict[str, list[int]], users: int = 1000) -> Decision:
    """Each user has a case in each segment. The champion hits half; so many are lost, and won."""
    segments, parts = {}, []
    for number, (name, (lost, won)) in enumerate(differences.items()):
        order = np.random.default_rng(number).permutation(users)
        champion = np.where(np.arange(users) < users // 2, 1, 100)
        candidate = champion.copy()
        candidate[:lost] = 100
        candidate[users // 2 : users // 2 + won] = 1
        parts.append((candidate[order], champion[order]))
        segments[name] = np.repeat(np.arange(len(differences)), users) == number
    new, old = (np.concatenate(ranks) for ranks in zip(*parts, strict=True))
    return gate.decide(
        Evaluation(new, 0.5),
        Evaluation(old, 0.5),
        {POPULARITY: Evaluation(np.full(len(new), 100), 0.5)},
        np.tile(np.arange(users), len(differences)),
        segments=segments,
    )


def test_a_candidate_that_is_better_but_clearly_worse_in_a_segment_is_refused() -> None:
    decision = judged({"new_items": (80, 20), "others": (0, 100)})
    assert (decision.publish, decision.refusal) == (False, "segment")
    assert "in new_items (0.4400 to 0.5000, 1000 users)" in decision.reason
    assert decision.segments["others"].p_value == 1.0


def test_worse_in_a_segment_by_less_than_the_margin_or_within_noise_is_published() -> None:
    for lost, won in ((9, 0), (60, 45)):  # certain, but small; large, but perhaps by chance
        decision = judged({"new_items": (lost, won), "others": (0, 100)})
        assert decision.publish, decision.reason
        assert decision.segments["new_items"].candidate < decision.segments["new_items"].champion


def test_a_segment_of_few_users_decides_nothing() -> None:
    decision = judged({"purchase": (20, 0), "click": (0, 24)}, users=gate.SEGMENT_USERS - 1)
    assert decision.publish
    assert decision.segments == {}


def test_the_more_segments_there_are_the_clearer_one_must_be() -> None:
    alone = judged({"short_histories": (62, 28), "others": (0, 60)})
    among = judged({"short_histories": (62, 28), **{f"type{i}": (60, 60) for i in range(12)}})
    p_values = [one.segments["short_histories"].p_value for one in (alone, among)]
    assert p_values[0] < gate.SEGMENT_LEVEL < p_values[1]
    assert (alone.refusal, among.refusal) == ("segment", "")


def test_models_that_are_equal_are_rarely_refused_for_a_segment() -> None:
    """docs/models.md has the rates of longer runs."""
    equal, at_margin, runs = 0, 0, 40
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        users = np.sort(rng.integers(0, 400, 1200))
        champion = rng.random(1200) < 0.5
        swapped = rng.random(1200) < 0.2
        again = np.where(swapped, rng.random(1200) < 0.5, champion)
        worse = again & ~(rng.random(1200) < 2 * gate.SEGMENT_MARGIN)
        segments = {f"s{i}": rng.random(1200) < share for i, share in enumerate((0.3, 0.5, 0.2))}
        for hits, counted in ((again, "equal"), (worse, "at_margin")):
            verdicts = gate.compare_segments(
                *(Evaluation(np.where(h, 1, 100), 0.5) for h in (hits, champion)), users, segments
            )
            refused = any(one.p_value <= gate.SEGMENT_LEVEL for one in verdicts.values())
            equal += refused and counted == "equal"
            at_margin += refused and counted == "at_margin"
    assert equal <= 1
    assert at_margin <= 4
