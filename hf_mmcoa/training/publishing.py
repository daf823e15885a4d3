"""A `Trainer` whose pushes to the Hub are those of `hf-mmcoa push`: safetensors and text, never a pickle.

The card is written from result files.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

PUSHED_FOLDER = "_pushed"  # in `output_dir`: a copy of the files that are being pushed while training goes on

logger = logging.getLogger(__name__)


class PublishingTrainer(Trainer):
    """A `Trainer` whose pushes, during and after training, are those of `hf-mmcoa push`."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, and check that it holds no other model.

        Args:
            token: a token with write access; None takes that of the arguments or of the login.
            private: create the repository as a private one; None takes the arguments' value.

        Raises:
            ValueError: if it holds another model, or if `hub_strategy` would push checkpoints, whose optimizer state is
                a pickle.
            PermissionError: if there is no token, or it may not write there.
            ConnectionError: if the Hub cannot be reached.
        """
        from ..hub import push  # it imports the trainer

        if self.args.push_to_hub and self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"`hub_strategy={self.args.hub_strategy}` would push optimizer.pt and rng_state.pth, "
                "which are pickles: use every_save or end. Checkpoints to resume from stay in `output_dir`."
            )
        if not self.is_world_process_zero():
            return
        model, wanted = self.accelerator.unwrap_model(self.model), self.args.hub_model_id
        adapter = getattr(model, "peft_config", {}).get("default")
        api = push.connect(token or self.args.hub_token)
        with push.telling(wanted or str(self._output_dir), self._output_dir):
            self.hub_model_id: Any = push.full_id(api, wanted or self._output_dir.absolute().name)
            push.open_repository(
                api,
                self.hub_model_id,
                (adapter or model.config).to_dict(),
                private=bool(private if private is not None else self.args.hub_private_repo),
                revision=self.args.hub_revision,
            )
        self.push_in_progress = None

    def create_model_card(  # type: ignore[override]  # reads from files what the Trainer takes as arguments
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | Sequence[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
    ) -> None:
        """Write `README.md` of `output_dir`, from `training_args.yaml` and the results measured on these weights.

        Args:
            language: language of the prompts, in the Hub's spelling.
            license: licence of the weights, in the Hub's spelling.
            tags: additional tags.
            model_name: unused, because the card is named after the repository.
            finetuned_from: Hub id of the base model, if the files do not state it.
        """
        if self.is_world_process_zero():
            self._pack(self._output_dir, language=language, license=license, tags=tags, base_model=finetuned_from)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Push the files of `output_dir` that `hf-mmcoa push` publishes, which are no pickles.

        Args:
            commit_message: message of the commit.
            blocking: wait until the push is complete.
            token: a token with write access; None takes that of the arguments or of the login.
            revision: branch; None takes that of the arguments.
            private: see `init_hf_repo`.
            **kwargs: arguments of `create_model_card`.

        Returns:
            `CommitInfo`, or a `Future` of it without `blocking`; None on all processes but the first.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        kwargs.pop("model_name", None)  # the card is named after the repository
        if "finetuned_from" in kwargs:
            kwargs["base_model"] = kwargs.pop("finetuned_from")
        package = self._pack(self._output_dir, **kwargs)
        return self._send(package, commit_message or "End of training", not blocking, token, revision)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the safetensors and text files of a checkpoint, from a copy that no later save changes."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if not self.args.hub_always_push and self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        from ..hub.model_folder import read_checkpoint

        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._finish_current_push()
        copy = self._output_dir / PUSHED_FOLDER
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        try:
            for file in read_checkpoint(checkpoint_folder).files():
                shutil.copy(file, copy)
            job = self._send(self._pack(copy), f"Training in progress, step {self.state.global_step}", True)
        except (ValueError, OSError) as error:  # a failed push must not stop the training
            logger.warning("training goes on, but step %d was not pushed: %s", self.state.global_step, error)
            return
        self.push_in_progress = PushInProgress([job])  # type: ignore[assignment,arg-type]  # as the Trainer does

    def _finish_current_push(self) -> None:
        """Wait for the push in progress, and log its error if it failed."""
        super()._finish_current_push()
        for job in getattr(getattr(self, "push_in_progress", None), "jobs", ()):
            if (error := job.exception()) is not None:
                logger.warning("a push during training broke off: %s. The next push sends all files.", error)
        self.push_in_progress = None

    def _pack(self, folder: Path, **metadata: Any) -> Any:
        """Write the folder's card and return the `Package` of a push."""
        from ..hub.push import pack

        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        model = None if sharded else self.accelerator.unwrap_model(self.model)
        return pack(folder, self.hub_model_id, model=model, other_card="keep", **metadata)

    def _send(
        self, package: Any, message: str, background: bool, token: str | None = None, revision: str | None = None
    ) -> Any:
        from ..hub import push

        repo_id, api = str(self.hub_model_id), push.connect(token or self.args.hub_token)
        with push.telling(repo_id, package.checkpoint.folder):
            return push.send(api, repo_id, package.files, message, revision or self.args.hub_revision, background)

    @property
    def _output_dir(self) -> Path:
        return Path(str(self.args.output_dir))
