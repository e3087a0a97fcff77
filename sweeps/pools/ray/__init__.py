"""Runs as Ray tasks, on this machine or a cluster.

Private parts of Ray that this folder uses; look at them when Ray is updated:

- `ray._private.worker.global_worker.gcs_client.get_all_node_info` (nodes.py): the nodes, with a timeout.
- `ray._raylet.GcsClient` and `ray._private.services.canonicalize_bootstrap_address_or_die` (session.py): the
  same and a check of the token, before `ray.init`, which would wait for minutes or end the process.
- `ray._raylet.AuthenticationTokenLoader.instance().reset_cache` (session.py): a second Ray in one process.
- `ray._private.worker._global_node.raylet_socket_name` (session.py): whether the node's daemon answers.
- `ray._private.worker._worker_logs_enabled` (session.py): no messages of Ray about lost workers.
- `JobConfig._runtime_env_has_working_dir` and `_py_driver_sys_path` (session.py): import paths of workers.
- `ray.init(_temp_dir=)` (session.py): a folder of our own for the sockets.
- `NodeAffinitySchedulingStrategy(_spill_on_unavailable=)` (pool.py): another node, if that one is taken.

Of MLflow, `analysis.table.mlflow` reads the tables by SQL and the names of the migration files.
"""
