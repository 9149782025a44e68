"""Beam's local job service and its EXTERNAL worker pool, on loopback only.

    python -P beam_services.py job_service PORT WORKERS
    python -P beam_services.py worker_pool PORT

Both run Beam's own mains. Two things are changed from outside: every port is bound to loopback (Beam
binds those of its workers to all addresses), and the job service asks for WORKERS workers a job (its
main asks for one).
"""

import logging
import socket
import sys

import grpc

_server = grpc.server


def on_loopback(*args, **options):
    server = _server(*args, **options)
    add = server.add_insecure_port
    server.add_insecure_port = lambda address: add(address.replace("[::]", "localhost"))
    return server


def main(what, port, workers="1"):
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    grpc.server = on_loopback
    socket.getfqdn = lambda name="": "localhost"
    if what == "worker_pool":
        from apache_beam.runners.worker.worker_pool_main import main

        main([f"--service_port={port}"])
        return
    from apache_beam.runners.portability import local_job_service_main
    from apache_beam.runners.portability.fn_api_runner import fn_runner

    class Runner(fn_runner.FnApiRunner):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self._num_workers = int(workers)

    fn_runner.FnApiRunner = Runner
    local_job_service_main.run(["-p", port])


if __name__ == "__main__":
    main(*sys.argv[1:])
