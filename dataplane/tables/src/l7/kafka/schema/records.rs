//! Records and topics: what producers, consumers and all clients ask for.

use super::Role::*;
use super::{
    Api, Denial, array, bytes, int8, int16, int32, int64, partitions, string, topics, unread,
    unread_struct, uuid,
};

/// The APIs.
pub(super) static APIS: &[Api] = &[
    // Produce
    Api {
        key: 0,
        versions: (0, 13),
        flexible: 9,
        denial: Denial::Topic,
        request: &[
            string("transactional_id").since(3),
            int16("acks").role(Acks),
            int32("timeout"),
            topics(
                "topic_data",
                &[
                    uuid("topic_id").role(TopicId).since(13),
                    string("name").role(Topic).until(12),
                    partitions(
                        "partition_data",
                        &[int32("index").role(Partition), bytes("records")],
                    ),
                ],
            ),
        ],
        response: &[
            topics(
                "responses",
                &[
                    uuid("topic_id").role(TopicId).since(13),
                    string("name").role(Topic).until(12),
                    partitions(
                        "partition_responses",
                        &[
                            int32("index").role(Partition),
                            int16("error_code").role(Error),
                            int64("base_offset").or(-1),
                            int64("log_append_time").since(2).or(-1),
                            int64("log_start_offset").since(5).or(-1),
                            unread("record_errors").since(8),
                            string("error_message").since(8).or_null(),
                        ],
                    ),
                ],
            ),
            int32("throttle_time").since(1),
        ],
    },
    // Fetch
    Api {
        key: 1,
        versions: (0, 18),
        flexible: 12,
        denial: Denial::Topic,
        request: &[
            int32("replica_id").until(14),
            int32("max_wait"),
            int32("min_bytes"),
            int32("max_bytes").since(3),
            int8("isolation_level").since(4),
            int32("session_id").role(SessionId).since(7),
            int32("session_epoch").role(SessionEpoch).since(7),
            topics(
                "topics",
                &[
                    uuid("topic_id").role(TopicId).since(13),
                    string("topic").role(Topic).until(12),
                    partitions(
                        "partitions",
                        &[
                            int32("partition").role(Partition),
                            int32("current_leader_epoch").since(9),
                            int64("fetch_offset"),
                            int32("last_fetched_epoch").since(12),
                            int64("log_start_offset").since(5),
                            int32("partition_max_bytes"),
                        ],
                    ),
                ],
            ),
            array(
                "forgotten_topics_data",
                &[
                    uuid("topic_id").since(13),
                    string("topic").until(12),
                    array("partitions", &[int32("")]).of_scalars(),
                ],
            )
            .since(7),
            string("rack_id").since(11),
        ],
        response: &[
            int32("throttle_time").since(1),
            int16("error_code").role(Error).since(7),
            int32("session_id").role(SessionId).since(7),
            topics(
                "responses",
                &[
                    uuid("topic_id").role(TopicId).since(13),
                    string("topic").role(Topic).until(12),
                    partitions(
                        "partitions",
                        &[
                            int32("partition_index").role(Partition),
                            int16("error_code").role(Error),
                            int64("high_watermark").or(-1),
                            int64("last_stable_offset").since(4).or(-1),
                            int64("log_start_offset").since(5).or(-1),
                            unread("aborted_transactions").since(4).or_null(),
                            int32("preferred_read_replica").since(11).or(-1),
                            bytes("records"),
                        ],
                    ),
                ],
            ),
        ],
    },
    // ListOffsets
    Api {
        key: 2,
        versions: (0, 11),
        flexible: 6,
        denial: Denial::Topic,
        request: &[
            int32("replica_id"),
            int8("isolation_level").since(2),
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    partitions(
                        "partitions",
                        &[
                            int32("partition_index").role(Partition),
                            int32("current_leader_epoch").since(4),
                            int64("timestamp"),
                            int32("max_num_offsets").until(0),
                        ],
                    ),
                ],
            ),
            int32("timeout").since(10),
        ],
        response: &[
            int32("throttle_time").since(2),
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    partitions(
                        "partitions",
                        &[
                            int32("partition_index").role(Partition),
                            int16("error_code").role(Error),
                            array("old_style_offsets", &[int64("")]).of_scalars().until(0),
                            int64("timestamp").since(1).or(-1),
                            int64("offset").since(1).or(-1),
                            int32("leader_epoch").since(4).or(-1),
                        ],
                    ),
                ],
            ),
        ],
    },
    // Metadata
    Api {
        key: 3,
        versions: (0, 13),
        flexible: 9,
        denial: Denial::Topic,
        request: &[
            topics(
                "topics",
                &[uuid("topic_id").role(TopicId).since(10), string("name").role(Topic)],
            ),
            int8("allow_auto_topic_creation").since(4),
            int8("include_cluster_authorized_operations").since(8).until(10),
            int8("include_topic_authorized_operations").since(8),
        ],
        response: &[
            int32("throttle_time").since(3),
            array(
                "brokers",
                &[
                    int32("node_id").or(-1),
                    string("host"),
                    int32("port").or(-1),
                    string("rack").since(1).or_null(),
                ],
            ),
            string("cluster_id").since(2).or_null(),
            int32("controller_id").since(1).or(-1),
            topics(
                "topics",
                &[
                    int16("error_code").role(Error),
                    string("name").role(Topic),
                    uuid("topic_id").role(TopicId).since(10),
                    int8("is_internal").since(1),
                    array(
                        "partitions",
                        &[
                            int16("error_code").role(Error),
                            int32("partition_index"),
                            int32("leader_id"),
                            int32("leader_epoch").since(7).or(-1),
                            array("replica_nodes", &[int32("")]).of_scalars(),
                            array("isr_nodes", &[int32("")]).of_scalars(),
                            array("offline_replicas", &[int32("")]).of_scalars().since(5),
                        ],
                    ),
                    int32("topic_authorized_operations").since(8).or(i32::MIN as i64),
                ],
            ),
            int16("error_code").role(Error).since(13),
            int32("cluster_authorized_operations").since(8).until(10).or(i32::MIN as i64),
        ],
    },
    // DeleteRecords
    Api {
        key: 21,
        versions: (0, 2),
        flexible: 2,
        denial: Denial::Topic,
        request: &[
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    partitions(
                        "partitions",
                        &[int32("partition_index").role(Partition), int64("offset")],
                    ),
                ],
            ),
            int32("timeout"),
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
                            int64("low_watermark").or(-1),
                            int16("error_code").role(Error),
                        ],
                    ),
                ],
            ),
        ],
    },
    // OffsetForLeaderEpoch
    Api {
        key: 23,
        versions: (0, 4),
        flexible: 4,
        denial: Denial::Topic,
        request: &[
            int32("replica_id").since(3),
            topics(
                "topics",
                &[
                    string("topic").role(Topic),
                    partitions(
                        "partitions",
                        &[
                            int32("partition").role(Partition),
                            int32("current_leader_epoch").since(2),
                            int32("leader_epoch"),
                        ],
                    ),
                ],
            ),
        ],
        response: &[
            int32("throttle_time").since(2),
            topics(
                "topics",
                &[
                    string("topic").role(Topic),
                    partitions(
                        "partitions",
                        &[
                            int16("error_code").role(Error),
                            int32("partition").role(Partition),
                            int32("leader_epoch").since(1).or(-1),
                            int64("end_offset").or(-1),
                        ],
                    ),
                ],
            ),
        ],
    },
    // DescribeProducers
    Api {
        key: 61,
        versions: (0, 0),
        flexible: 0,
        denial: Denial::Topic,
        request: &[topics(
            "topics",
            &[
                string("name").role(Topic),
                partitions("partition_indexes", &[int32("").role(Partition)]).of_scalars(),
            ],
        )],
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
                            string("error_message").or_null(),
                            unread("active_producers"),
                        ],
                    ),
                ],
            ),
        ],
    },
    // DescribeTopicPartitions
    Api {
        key: 75,
        versions: (0, 0),
        flexible: 0,
        denial: Denial::Topic,
        request: &[
            topics("topics", &[string("name").role(Topic)]),
            int32("response_partition_limit"),
            unread_struct("cursor").or_null(),
        ],
        response: &[
            int32("throttle_time"),
            topics(
                "topics",
                &[
                    int16("error_code").role(Error),
                    string("name").role(Topic).or_null(),
                    uuid("topic_id").role(TopicId),
                    int8("is_internal"),
                    unread("partitions"),
                    int32("topic_authorized_operations").or(i32::MIN as i64),
                ],
            ),
            unread_struct("next_cursor").or_null(),
        ],
    },
];
