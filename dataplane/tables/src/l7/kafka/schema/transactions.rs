//! Transactions.

use super::Role::*;
use super::{
    Api, Denial, array, int8, int16, int32, int64, keys, partitions, string, topics, unread,
};

/// The APIs.
pub(super) static APIS: &[Api] = &[
    // InitProducerId
    Api {
        key: 22,
        versions: (0, 6),
        flexible: 2,
        denial: Denial::Transaction,
        request: &[
            string("transactional_id").role(TransactionalId),
            int32("transaction_timeout"),
            int64("producer_id").since(3),
            int16("producer_epoch").since(3),
            int8("enable2_pc").since(6),
            int8("keep_prepared_txn").since(6),
        ],
        response: &[
            int32("throttle_time"),
            int16("error_code").role(Error),
            int64("producer_id").or(-1),
            int16("producer_epoch"),
            int64("ongoing_txn_producer_id").since(6).or(-1),
            int16("ongoing_txn_producer_epoch").since(6).or(-1),
        ],
    },
    // AddPartitionsToTxn
    Api {
        key: 24,
        versions: (0, 5),
        flexible: 3,
        denial: Denial::Transaction,
        request: &[
            keys(
                "transactions",
                &[
                    string("transactional_id").role(Key),
                    int64("producer_id"),
                    int16("producer_epoch"),
                    int8("verify_only"),
                    topics(
                        "topics",
                        &[
                            string("name").role(Topic),
                            partitions("partitions", &[int32("").role(Partition)]).of_scalars(),
                        ],
                    ),
                ],
            )
            .since(4),
            string("v3_and_below_transactional_id").until(3),
            int64("v3_and_below_producer_id").until(3),
            int16("v3_and_below_producer_epoch").until(3),
            topics(
                "v3_and_below_topics",
                &[
                    string("name").role(Topic),
                    partitions("partitions", &[int32("").role(Partition)]).of_scalars(),
                ],
            )
            .until(3),
        ],
        response: &[
            int32("throttle_time"),
            int16("error_code").role(Error).since(4),
            keys(
                "results_by_transaction",
                &[
                    string("transactional_id").role(Key),
                    topics(
                        "topic_results",
                        &[
                            string("name").role(Topic),
                            partitions(
                                "results_by_partition",
                                &[
                                    int32("partition_index").role(Partition),
                                    int16("partition_error_code").role(Error),
                                ],
                            ),
                        ],
                    ),
                ],
            )
            .since(4),
            topics(
                "results_by_topic_v3_and_below",
                &[
                    string("name").role(Topic),
                    partitions(
                        "results_by_partition",
                        &[
                            int32("partition_index").role(Partition),
                            int16("partition_error_code").role(Error),
                        ],
                    ),
                ],
            )
            .until(3),
        ],
    },
    // AddOffsetsToTxn
    Api {
        key: 25,
        versions: (0, 4),
        flexible: 3,
        denial: Denial::Transaction,
        request: &[
            string("transactional_id"),
            int64("producer_id"),
            int16("producer_epoch"),
            string("group_id"),
        ],
        response: &[int32("throttle_time"), int16("error_code").role(Error)],
    },
    // EndTxn
    Api {
        key: 26,
        versions: (0, 5),
        flexible: 3,
        denial: Denial::Transaction,
        request: &[
            string("transactional_id"),
            int64("producer_id"),
            int16("producer_epoch"),
            int8("committed"),
        ],
        response: &[
            int32("throttle_time"),
            int16("error_code").role(Error),
            int64("producer_id").since(5).or(-1),
            int16("producer_epoch").since(5).or(-1),
        ],
    },
    // TxnOffsetCommit
    Api {
        key: 28,
        versions: (0, 5),
        flexible: 3,
        denial: Denial::Transaction,
        request: &[
            string("transactional_id"),
            string("group_id"),
            int64("producer_id"),
            int16("producer_epoch"),
            int32("generation_id").since(3),
            string("member_id").since(3),
            string("group_instance_id").since(3),
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    partitions(
                        "partitions",
                        &[
                            int32("partition_index").role(Partition),
                            int64("committed_offset"),
                            int32("committed_leader_epoch").since(2),
                            string("committed_metadata"),
                        ],
                    ),
                ],
            ),
        ],
        response: &[
            int32("throttle_time"),
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    partitions(
                        "partitions",
                        &[
                            int32("partition_index").role(Partition),
                            int16("error_code").role(Error),
                        ],
                    ),
                ],
            ),
        ],
    },
    // ListTransactions
    Api {
        key: 66,
        versions: (0, 2),
        flexible: 0,
        denial: Denial::Cluster,
        request: &[
            array("state_filters", &[string("")]).of_scalars(),
            array("producer_id_filters", &[int64("")]).of_scalars(),
            int64("duration_filter").since(1),
            string("transactional_id_pattern").since(2),
        ],
        response: &[
            int32("throttle_time"),
            int16("error_code").role(Error),
            unread("unknown_state_filters"),
            unread("transaction_states"),
        ],
    },
    // DescribeTransactions
    Api {
        key: 65,
        versions: (0, 0),
        flexible: 0,
        denial: Denial::Transaction,
        request: &[keys("transactional_ids", &[string("").role(Key)]).of_scalars()],
        response: &[
            int32("throttle_time"),
            keys(
                "transaction_states",
                &[
                    int16("error_code").role(Error),
                    string("transactional_id").role(Key),
                    string("transaction_state"),
                    int32("transaction_timeout"),
                    int64("transaction_start_time"),
                    int64("producer_id"),
                    int16("producer_epoch"),
                    unread("topics"),
                ],
            ),
        ],
    },
];
