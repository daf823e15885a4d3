"""Ctrl-C, or a scheduler's SIGTERM, ends a training after the current step and with a complete checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import SaveStrategy

if TYPE_CHECKING:
    from transformers import Trainer

ECHO = 0.5  # seconds within which launcher and terminal may both pass on one signal to one of several processes


class TrainingInterrupted(KeyboardInterrupt):
    """A signal stopped the training after a step.

    Args:
        signal_number: which.
        step: after which step.
        checkpoint: where it goes on from.
    """

    def __init__(self, signal_number: int, step: int, checkpoint: str) -> None:
        self.signal_number, self.step, self.checkpoint = signal_number, step, checkpoint
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} after step {step}. Go on, bit for bit, with "
            f"`resume_from_checkpoint={checkpoint!r}` (or True, for the last one)."
        )


class StopOnSignal(TrainerCallback):
    """Turns the first SIGINT or SIGTERM into a stop after the step; the second has its usual effect at once.

    Several processes stop after the same step, whichever of them was told first.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._previous: dict[int, Any] = {}
        self._received, self._received_at, self._process = 0, 0.0, 0
        self._stopping, self._listening, self._saved_step = False, False, -1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the Trainer trains. Signal handlers are as before afterwards.

        Raises:
            TrainingInterrupted: at the end, if a signal stopped it.
        """
        self._received, self._stopping, self._listening, self._saved_step = 0, False, True, -1
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._install()
        try:
            yield
        finally:
            self._listening = False
            self._restore()
        if self._stopping:
            step = self._trainer.state.global_step
            folder = os.path.join(str(self._trainer.args.output_dir), f"checkpoint-{step}")
            raise TrainingInterrupted(self._received, step, folder)
        if self._received:  # too late for the training: it belongs to whoever comes next
            signal.raise_signal(self._received)

    def _install(self) -> None:
        numbers = [signal.SIGINT]
        if not getattr(self._trainer.args, "enable_jit_checkpoint", False):  # which has a handler of its own
            numbers.append(signal.SIGTERM)
        for number in numbers:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # who has it ignored (nohup) means it
                self._previous[number] = signal.signal(number, self._receive)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _receive(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a data loader's worker, forked with this handler
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return  # Ctrl-C reaches the workers too; the batches of the current step are still wanted
        if self._received:
            if self._trainer.args.world_size > 1 and time.monotonic() - self._received_at < ECHO:
                return
            self._restore()
            signal.raise_signal(number)
            return
        self._received, self._received_at = number, time.monotonic()
        if self._trainer.args.process_index == 0:  # not by `print`, which may just be at work
            os.write(2, b"\nStopping after this step, with a checkpoint. Once more stops at once.\n")

    def _agreed(self) -> bool:
        """Whether any process was told to stop; every process asks at the same time."""
        if self._trainer.args.world_size > 1:
            told = torch.tensor([self._received], device=self._trainer.args.device)
            self._received = int(self._trainer.accelerator.gather(told).max())
        return bool(self._received)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved_step = state.global_step

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop and save, unless the epoch ends here: its evaluation comes first, as in an uninterrupted run."""
        if not self._listening or _epoch_ends(state):
            return
        if self._agreed() and not _save_is_up_to_evaluation(args, control):
            self._stopping = control.should_training_stop = control.should_save = True

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Also called where the epoch was broken off, and then nothing is due."""
        if not self._listening:
            return
        if self._stopping:
            control.should_log = control.should_evaluate = control.should_save = False
        elif self._agreed() and not _save_is_up_to_evaluation(args, control):
            self._stopping = control.should_training_stop = True
            control.should_save |= control.should_evaluate or self._saved_step != state.global_step


def _save_is_up_to_evaluation(args: Any, control: TrainerControl) -> bool:
    """Where only the best is saved, the stop waits for a step without evaluation."""
    return args.save_strategy == SaveStrategy.BEST and bool(control.should_evaluate)


def _epoch_ends(state: TrainerState) -> bool:
    return float(state.epoch or 0.5).is_integer()
