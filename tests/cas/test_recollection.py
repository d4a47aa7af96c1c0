from cas.recollection import Recollection


def make() -> Recollection[str]:
    return Recollection(present_s=10, missing_s=1, max_keys=3)


def test_nothing_is_known_of_what_was_not_heard() -> None:
    assert make().recall("a", 0) is None


def test_answers_hold_for_their_time() -> None:
    heard = make()
    heard.learn("there", present=True, now=0)
    heard.learn("gone", present=False, now=0)

    assert (heard.recall("there", 9.9), heard.recall("gone", 0.9)) == (True, False)
    assert (heard.recall("there", 10), heard.recall("gone", 1)) == (None, None)
    assert len(heard) == 0


def test_later_answer_replaces_the_earlier() -> None:
    heard = make()
    heard.learn("a", present=False, now=0)
    heard.learn("a", present=True, now=0)

    assert heard.recall("a", 5) is True
    heard.forget("a")
    assert heard.recall("a", 5) is None


def test_oldest_answer_goes_when_there_are_too_many() -> None:
    heard = make()
    for key in "abad":
        heard.learn(key, present=True, now=0)
    heard.learn("e", present=True, now=0)

    assert [heard.recall(key, 0) for key in "bade"] == [None, True, True, True]


def test_answers_of_no_duration_are_not_kept() -> None:
    heard = Recollection[str](present_s=10, missing_s=0, max_keys=3)
    heard.learn("a", present=True, now=0)
    heard.learn("a", present=False, now=0)

    assert heard.recall("a", 0) is None
