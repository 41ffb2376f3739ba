"""Deterministic simulation: one seed is one history of workers, Kafka, Redis and what befalls them.

The real `Worker`, `AtLeastOnce`, `ExactlyOnce`, `ClickConsumer`, `Publisher`,
`TransactionalPublisher`, `RedisSessions` and `Collector` run, and in some histories `Registry`,
`ModelSlot` and `Learner`. What is simulated lies below them:

    scheduler.py     time, processes and their threads: greenlets, one runs at a time
    faults.py        what befalls a history: all of it follows from the seed
    network.py       requests: late, lost, their answers lost, held
    log.py           Kafka's topics; whose records can be read
    group.py         Kafka's group coordinator: generations, expiry, static members, offsets
    transactions.py  Kafka's transaction coordinator: epochs, time-outs, markers
    consumer.py      confluent_kafka.Consumer
    producer.py      confluent_kafka.Producer
    redis.py         a Redis that runs sessions.lua
    event_log.py     an EventLog in memory
    bucket.py        a bucket of S3, for a registry
    models.py        models with deltas, and what workers should serve
    programs.py      what runs in a process: a worker, or a trainer that collects or publishes
    history.py       one seed from its beginning to the oracle's verdict
    oracle.py        what must hold
    shrink.py        fewer faults, fewer clicks, the same violation
    mutations.py     promises broken on purpose: each must be found
    scripts.py       short histories, the same on the simulated Kafka and on a real one

Threads are greenlets because the product's code blocks in the middle of its calls, in callbacks
within callbacks: a greenlet can be left there and gone back to, at a thousandth of the price of a
thread. A worker hands over wherever it would wait for Kafka or Redis, so what two workers do
interleaves at every call, and within a call at every request that it makes.
"""
