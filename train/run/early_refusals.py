"""What can be refused of an experiment without JAX, whose import takes most of a second."""

from flaxmill.data.files.sources import refuse_missing
from flaxmill.sharding.mesh import fill_free_axis
from flaxmill.train.caches import cache_directory
from flaxmill.train.experiment import Experiment, with_absolute_paths, with_callbacks, with_definition
from flaxmill.train.jax_environment import count_cpu_devices
from flaxmill.train.metrics.trackers import check_installed
from flaxmill.train.run.directory import check_writable


def refuse_early(experiment: Experiment, *, has_mesh: bool) -> None:
    """Check what a run of one process checks again when it has imported JAX.

    Args:
      has_mesh: the experiment's mesh is the run's.

    Raises:
      ValueError: a tracker that is not installed, callbacks that are not defined, a cache or a run_dir that
        cannot be written, files that are missing, a mesh of more devices than the CPU has, or parts of the
        experiment that contradict each other whatever its data are.
    """
    check_installed(experiment.trackers)
    with_callbacks(experiment)
    cache_directory()
    check_writable(experiment)
    data = experiment.data
    refuse_missing(data.files, "data.files")
    refuse_missing(data.valid_files, "data.valid_files")
    num_devices = count_cpu_devices()
    if has_mesh and num_devices is not None:
        fill_free_axis(experiment.mesh, num_devices, "cpu")
    if experiment.init_from is None:  # else its model has parts of that source
        from flaxmill.train.resolution import resolve_before_data  # here, since it loads NumPy

        resolve_before_data(with_definition(with_absolute_paths(experiment)))
