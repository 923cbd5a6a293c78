"""Whose fault a failure is."""

from __future__ import annotations

from ailurus.protocol.errors import Code
from ailurus.protocol.faults import Fault, codes_of, fault_of


def test_of_each_code_of_ours_it_is_known_whose_fault_it_is() -> None:
    assert {code for code in Code if fault_of(code) is Fault.UNKNOWN} == {Code.OK}


def test_codes_are_found_by_whose_fault_they_are() -> None:
    assert all(fault_of(code) is fault for fault in Fault for code in codes_of(fault))
    assert fault_of(9999) is Fault.UNKNOWN
