"""The tasks that lmms-eval poses, looked at before it builds their requests: there it would only assert."""

from __future__ import annotations

import inspect
from typing import Any

from sparsemm.configs import InputError
from sparsemm.evaluation.exit_codes import exit_codes

ANSWERED = ("generate_until", "generate_until_agentic")
"""What a task may ask for: a text for each document, or one for each turn of its own code."""

REFUSED = {
    "loglikelihood": "compares likelihoods",
    "multiple_choice": "compares likelihoods",
    "generate_until_multi_round": "takes several rounds",
    "generate_visual_cot": "lets the model draw",
}
"""What else tasks of lmms-eval ask for."""


class PosedTasks(dict[str, Any]):
    """The datasets of tasks by name, as lmms-eval hands them to a model one by one.

    It hands over the data alone, and the task that they are of is in its own hands at that moment: the frame
    that calls is looked at for it. Without that, a task that compares likelihoods would end in an assertion
    of lmms-eval's, which its command line prints and then ends with exit code 0.
    """

    def __setitem__(self, name: str, dataset: Any) -> None:
        """Take a task's data.

        Raises
        ------
        InputError
            The task asks for something other than one generated text.
        """
        frame = inspect.currentframe()
        caller = frame.f_back if frame is not None else None
        task = caller.f_locals.get("task_obj") if caller is not None else None
        asks = getattr(task, "OUTPUT_TYPE", None)
        with exit_codes():
            if asks not in (*ANSWERED, None):
                what = REFUSED.get(asks, "asks for something else")
                raise InputError(
                    f"the task {name} {what} ({asks}); sparsemm generates a text for each document"
                )
        super().__setitem__(name, dataset)
