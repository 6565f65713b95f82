"""How the scoreboard counts what several processes write: clients held, on their way, and waiting."""

from __future__ import annotations

import pytest

from pfxhttpd.io.scoreboard import WORKERS, Scoreboard, padded


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard()


def hire(board: Scoreboard, pool: int = 0, slot: int = 1):
    row = board.hire(pool, slot, generation=1)
    return row, board.worker(row)


def test_a_client_is_counted_once_on_its_way_to_parking(board):
    _, worker = hire(board)
    worker.holds(1)
    assert board.held == 1
    worker.gave()
    worker.holds(0)
    assert board.held == board.travelling == 1
    board.park(1, arrived=1)
    assert board.held == 1 and board.travelling == 0


def test_clients_on_their_way_outlive_the_worker_that_gave_them(board):
    row, worker = hire(board)
    worker.gave()
    worker.gave()
    board.fire(row)
    assert board.travelling == 2
    board.park(2, arrived=2)
    assert board.held == 2


def test_the_client_in_the_hand_of_a_worker_that_died_is_gone(board):
    row, worker = hire(board)
    worker.holds(1)
    board.fire(row)
    assert board.held == 0


def test_clients_that_were_lost_on_their_way_are_forgotten_once_all_is_quiet(board):
    """A parking process took them from its socket, and died before it said so."""
    _, worker = hire(board)
    worker.gave()
    board.park(0)
    assert board.held == 1
    board.arrive()
    assert board.held == 0
    worker.gave()
    assert board.held == 1


def test_one_that_arrives_before_it_is_counted_as_given_is_no_debt(board):
    """The giver counts after it gave, and parking may be quicker."""
    _, worker = hire(board)
    worker.holds(1)
    board.park(1, arrived=1)
    assert board.travelling == 0 and board.held >= 1
    worker.gave()
    worker.holds(0)
    assert board.held == 1


def test_a_row_that_is_free_again_begins_at_nothing(board):
    row, worker = hire(board, slot=1)
    worker.busy(padded("users"), 1.0, 2.0)
    worker.served()
    worker.took()
    board.fire(row)
    again, worker = hire(board, slot=2)
    view = board.view(again)
    assert again == row and view.slot == 2
    assert (view.state, view.requests, view.held, view.entry) == ("starting", 0, 0, "")


def test_a_queue_is_as_long_as_what_was_sent_less_what_was_taken(board):
    row, worker = hire(board, pool=3)
    pool = board.pool(3)
    for _ in range(3):
        pool.sent()
    pool.count(0)
    assert pool.waiting == 3
    worker.took()
    pool.count(2)
    assert pool.waiting == 4, "two in the kernel's queue, two behind it"
    board.fire(row)
    pool.count(2)
    assert pool.waiting == 4, "what a dead worker took stays taken"
    pool.settle(0)
    assert pool.waiting == 0
    pool.sent()
    pool.count(0)
    assert pool.waiting == 1


def test_pools_do_not_count_each_others_clients(board):
    _, worker = hire(board, pool=1)
    one, other = board.pool(1), board.pool(2)
    one.sent()
    other.sent()
    worker.took()
    one.count(0)
    other.count(0)
    assert (one.waiting, other.waiting) == (0, 1)


def test_the_generation_is_everybodys(board):
    board.generation = 7
    _, _ = hire(board)
    assert board.generation == 7


@pytest.mark.parametrize("name", ["users", "x" * 100, "ü" * 100, ""])
def test_a_name_is_shown_as_far_as_there_is_room(board, name):
    row, worker = hire(board)
    worker.busy(padded(name), 1.0, 2.0)
    worker.served()
    shown = board.view(row).entry.rstrip("\ufffd")
    assert name.startswith(shown) and len(shown.encode()) >= min(len(name.encode()), 39)
    assert board.view(row).requests == 1


def test_there_is_an_end_to_the_rows(board):
    for _ in range(WORKERS):
        board.hire(0, 1, 1)
    with pytest.raises(RuntimeError, match=str(WORKERS)):
        board.hire(0, 1, 1)
