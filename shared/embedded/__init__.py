"""Apache Kafka and Valkey on this machine, without Docker: for the demo, the benches and the tests.

`start_kafka` starts one broker, `start_kafka_cluster` three, `start_redis` a Valkey server. Each
listens on 127.0.0.1 without a password, keeps its data in a folder that the caller deletes, and
ends with the process that started it. Not for production.
"""

from nextclick.shared.embedded.kafka import KafkaCluster, start_kafka, start_kafka_cluster
from nextclick.shared.embedded.server import Server, free_port
from nextclick.shared.embedded.valkey import start_redis

__all__ = [
    "KafkaCluster",
    "Server",
    "free_port",
    "start_kafka",
    "start_kafka_cluster",
    "start_redis",
]
