from solotune.metrics.contains import contains


def test_the_reference_may_stand_anywhere_in_the_prediction():
    assert contains("The capital is Paris, of course.", "Paris") == 1.0
    assert contains("The capital is Rome.", "Paris") == 0.0


def test_case_is_folded_in_any_script():
    assert contains("DIE STRASSE", "Straße") == 1.0
    assert contains("Где ЮГ?", "юг") == 1.0


def test_whitespace_around_the_reference_is_ignored_but_not_within():
    assert contains("New York", " New York\n") == 1.0
    assert contains("New York", "New  York") == 0.0


def test_word_boundaries_do_not_count():
    assert contains("17", "7") == 1.0


def test_the_prediction_inside_the_reference_does_not_count():
    assert contains("Paris", "Paris, France") == 0.0


def test_a_blank_reference_has_no_score():
    assert contains("anything", " \n") is None
