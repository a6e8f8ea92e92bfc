"""What later steps learn from is drawn by other threads: the same in the same order, errors and ends included."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from Testing.training.test_trainer import SMALL, ball, make_trainer, take_step
from TransferSegLib.errors import TrainingError
from TransferSegLib.progress import Task
from TransferSegLib.training.drawing_ahead import DrawingAhead
from TransferSegLib.training.loop import Hooks, train
from TransferSegLib.training.schedule import Schedule
from TransferSegLib.training.trainer import Trainer


def drawing_threads() -> int:
    """Return how many threads draw."""
    return sum(thread.name.startswith("drawing") for thread in threading.enumerate())


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_every_step_gets_its_own(ahead: int) -> None:
    drawing = DrawingAhead(lambda step: np.random.default_rng([7, step]).random(), ahead)
    steps = [0, 1, 2, 2, 3, 9, 4, 5]  # one made again, and going on from elsewhere
    assert [drawing.take(step) for step in steps] == [np.random.default_rng([7, step]).random() for step in steps]
    drawing.stop()


def test_what_comes_next_is_drawn_meanwhile() -> None:
    drawn = [threading.Event() for _ in range(6)]

    def draw(step: int) -> int:
        drawn[step].set()
        return step

    drawing = DrawingAhead(draw, 2)
    assert drawing.take(0) == 0
    assert drawn[1].wait(10) and drawn[2].wait(10) and not drawn[3].is_set()
    assert drawing.take(1) == 1
    assert drawn[3].wait(10)
    drawing.stop()
    assert drawing_threads() == 0
    assert drawing.take(2) == 2  # begins anew
    drawing.stop()


def test_an_error_comes_up_in_its_own_step() -> None:
    def draw(step: int) -> int:
        if step == 2:
            raise TrainingError("no patch")
        return step

    drawing = DrawingAhead(draw, 3)
    assert [drawing.take(step) for step in (0, 1)] == [0, 1]
    with pytest.raises(TrainingError, match="no patch"):
        drawing.take(2)
    drawing.stop()


def with_drawing_ahead() -> Trainer:
    """Return a trainer that draws ahead, as on a GPU."""
    trainer = make_trainer(ball())
    trainer._drawing = DrawingAhead(trainer._draw, 3)
    return trainer


def test_training_ends_with_the_same_weights_also_when_it_is_resumed() -> None:
    plain, ahead = make_trainer(ball()), with_drawing_ahead()
    for _ in range(5):
        take_step(plain)
    for _ in range(2):
        take_step(ahead)
    resumed = with_drawing_ahead()
    resumed.restore(ahead.state())
    ahead.stop_drawing()
    for _ in range(3):
        take_step(resumed)
    resumed.stop_drawing()
    for name, value in plain.averaged_state().items():
        assert torch.equal(value, resumed.averaged_state()[name]), name


def test_no_thread_outlives_the_training() -> None:
    trainer = with_drawing_ahead()
    hooks = Hooks(lambda: None, 100, lambda line: None)
    train(trainer, Schedule(2, SMALL.learning_rate, 1), hooks, Task())
    assert trainer.step == 2 and drawing_threads() == 0
