"""Which process of a launch one is, by what launchers say; what half of a launch is told."""

import pytest

from manyview.errors import RunError
from manyview.foundation.launcher import Place, place

SLURM = {
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[07-08,20]",
    "SLURM_JOB_ID": "4001",
    "SLURM_STEP_ID": "2",
}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        pytest.param({}, None, id="alone"),
        pytest.param({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, None, id="of one"),
        pytest.param({**TORCHRUN, "MASTER_PORT": "29501"}, Place(1, 4, 1, 2, "a", 29501), id="torchrun"),
        pytest.param(TORCHRUN, Place(1, 4, 1, 2, "a", 29500), id="torch's port"),
        pytest.param(SLURM, Place(3, 5, 1, 2, "gpu07", 29500 + 4003), id="srun"),
        pytest.param(
            {**SLURM, "MASTER_ADDR": "b", "MASTER_PORT": "7"}, Place(3, 5, 1, 2, "b", 7), id="srun, own address"
        ),
        pytest.param({**SLURM, **TORCHRUN}, Place(1, 4, 1, 2, "a", 29500), id="torchrun under srun"),
        # as a job's own script sees it
        pytest.param({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, None, id="sbatch"),
        pytest.param({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None, id="srun of one"),
    ],
)
def test_a_process_knows_its_place(environment, found):
    assert place(environment) == found


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"RANK": None}, "RANK is not set; start them with torchrun, srun"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"RANK": "4"}, "RANK=4, WORLD_SIZE=4: the processes of a group are numbered from 0 to 3"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: a whole number"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT=http: a whole number"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1: a whole number"),
    ],
)
def test_half_a_launch_is_refused_in_one_line(wrong, told):
    said = {name: value for name, value in {**TORCHRUN, **wrong}.items() if value is not None}
    with pytest.raises(RunError) as error:
        place(said)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
