"""The command that brings the README's tables up to date."""

import pytest

from eval.readme import main
from eval.report.readme_tables import fill, first_table
from mvgenvs.errors import UserError

TEXT = """before
<!-- table steps -->
| old |
<!-- end -->
between
<!-- table other -->
| kept |
<!-- end -->
after
"""


def test_only_tables_of_the_name_are_replaced():
    filled = fill(TEXT, {"steps": "| new |\n|---|\n| 1 |"})
    assert filled == TEXT.replace("| old |", "| new |\n|---|\n| 1 |")


def test_filling_twice_changes_nothing():
    once = fill(TEXT, {"steps": "| 0.5 |"})
    assert fill(once, {"steps": "| 0.5 |"}) == once


def test_an_empty_place_is_filled_and_nothing_after_it_is_lost():
    empty = TEXT.replace("| old |\n", "")
    assert fill(empty, {"steps": "| old |"}) == TEXT


def test_leading_zeros_go_but_no_other_digits():
    filled = fill(TEXT, {"steps": "| 0.172 | -0.0326 | 10.5 | 20.061 | 1.0.2 |"})
    assert "| .172 | -.0326 | 10.5 | 20.061 | 1.0.2 |" in filled


def test_the_first_table_of_a_file_and_no_other(tmp_path):
    path = tmp_path / "steps.md"
    path.write_text("# title\n\nwords\n\n| a |\n| --- |\n| 1 |\n\nmore\n\n| b |\n")
    assert first_table(path) == "| a |\n| --- |\n| 1 |"


def test_a_readme_is_filled_in_place(tmp_path):
    (tmp_path / "steps.md").write_text("| a |\n| --- |\n| 1 |\n")
    (tmp_path / "README.md").write_text(TEXT)
    main([str(tmp_path / "steps.md"), "--files", str(tmp_path / "README.md")])
    assert "| 1 |\n<!-- end -->" in (tmp_path / "README.md").read_text()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["README.md", "steps.md"]


@pytest.mark.parametrize("content", [None, "no table\n"])
def test_a_source_without_a_table_is_one_sentence(tmp_path, content):
    path = tmp_path / "steps.md"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"steps\.md"):
        first_table(path)
