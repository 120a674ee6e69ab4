"""Problems: a stable code each, one document shape."""

from __future__ import annotations

import inspect
import re

import pytest

from service import problems
from service.problems import Overloaded, Problem, TooManyPixels, every_problem


def test_a_problem_document_has_the_members_of_rfc_9457():
    """Clients read `code` and the numbers; people read `detail`."""
    problem = TooManyPixels("picture is too large", pixels=108, max_pixels=50)
    assert problem.document("id-1") == {
        "type": "/problems#too-many-pixels", "title": "Picture too large", "status": 413, "detail": "picture is too large",
        "code": "too-many-pixels", "request_id": "id-1", "pixels": 108, "max_pixels": 50,
    }


def test_a_problem_says_when_to_come_back():
    """The header `Retry-After` is lost in many clients; the body isn't."""
    assert Overloaded("full", retry_after_s=2.5).document("x")["retry_after_s"] == 2.5
    assert "retry_after_s" not in Overloaded("full").document("x")


def test_fields_can_not_hide_members():
    """A field named `status` would lie about the answer."""
    with pytest.raises(ValueError, match="status"):
        Problem("x", status=200)


def test_every_code_stands_for_one_kind():
    """A code is part of the API: two meanings would break those who branch on it."""
    codes = [cls.code for cls in every_problem() if cls is not problems.Internal]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("cls", every_problem(), ids=lambda cls: cls.__name__)
def test_every_problem_is_in_the_drawn_tree(cls):
    """The tree in the docstring is what people read first."""
    assert inspect.getdoc(problems) is not None
    assert re.search(rf"\b{cls.__name__} +{int(cls.status)} {cls.code}\n", f"{problems.__doc__}\n")
    assert 400 <= cls.status < 600
    assert cls.__doc__
