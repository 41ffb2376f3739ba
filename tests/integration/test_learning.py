"""Learning between retrainings: trainer and worker as real processes."""

from __future__ import annotations

from pathlib import Path

from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Click, Recommendation
from tests.conftest import Launch
from tests.integration.traffic import Answers, Shop, check, publish_model
from tests.waiting import until

LEARNING = {f"{PREFIX}TRAINER__DELTA_SECONDS": "0.2"}


def test_a_click_of_one_shopper_changes_the_list_of_another(
    kafka: KafkaSettings, answers: Answers, launch: Launch, tmp_path: Path
) -> None:
    shop, sent = Shop(kafka), list[Click]()

    def click(user: str, item: str) -> Recommendation:
        at = 1_700_000_000_000 + 1000 * len(sent)
        sent.append(Click(event_id=f"e{len(sent)}", user_id=user, item_id=item, timestamp=at))
        shop.send(sent[-1:])
        got = answers.wait_for({c.event_id for c in sent})
        return next(a for a in got if a.event_id == sent[-1].event_id)

    version = publish_model(tmp_path / "registry", seed=1)
    launch("worker")
    launch("trainer", **LEARNING)
    before = click("early", "17")
    assert before.model_version == version
    for user in ("a", "b", "c"):
        click(user, "17")
        click(user, "brand-new")

    def brand_new_is_listed() -> bool:
        after = click(f"late-{len(sent)}", "17")
        return "brand-new" in [item.item_id for item in after.items]

    until(brand_new_is_listed, "the new item in a list of another shopper", 60)
    learned = click("last", "brand-new")
    base, _, number = learned.model_version.partition("+")
    assert base == version
    assert int(number) > 0
    assert learned.fallback is None
    # Whatever answered: base and delta give the same list again.
    check(sent, answers.wait_for({c.event_id for c in sent}), tmp_path / "registry")
