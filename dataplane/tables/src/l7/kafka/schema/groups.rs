//! Groups of consumers.

use super::Role::*;
use super::{
    Api, Denial, MAX, array, bytes, int8, int16, int32, int64, keys, partitions, string, topics,
    unread, unread_struct, uuid,
};

/// The APIs.
pub(super) static APIS: &[Api] = &[
    // OffsetCommit
    Api {
        key: 8,
        versions: (0, 10),
        flexible: 8,
        denial: Denial::Group,
        request: &[
            string("group_id"),
            int32("generation_id_or_member_epoch").since(1),
            string("member_id").since(1),
            string("group_instance_id").since(7),
            int64("retention_time").since(2).until(4),
            topics(
                "topics",
                &[
                    uuid("topic_id").role(TopicId).since(10),
                    string("name").role(Topic).until(9),
                    partitions(
                        "partitions",
                        &[
                            int32("partition_index").role(Partition),
                            int64("committed_offset"),
                            int32("committed_leader_epoch").since(6),
                            int64("commit_timestamp").since(1).until(1),
                            string("committed_metadata"),
                        ],
                    ),
                ],
            ),
        ],
        response: &[
            int32("throttle_time").since(3),
            topics(
                "topics",
                &[
                    uuid("topic_id").role(TopicId).since(10),
                    string("name").role(Topic).until(9),
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
    // OffsetFetch
    Api {
        key: 9,
        versions: (0, 10),
        flexible: 6,
        denial: Denial::Group,
        request: &[
            keys(
                "groups",
                &[
                    string("group_id").role(Key),
                    string("member_id").since(9),
                    int32("member_epoch").since(9),
                    topics(
                        "topics",
                        &[
                            uuid("topic_id").role(TopicId).since(10),
                            string("name").role(Topic).until(9),
                            partitions("partition_indexes", &[int32("").role(Partition)])
                                .of_scalars(),
                        ],
                    ),
                ],
            )
            .since(8),
            string("group_id").until(7),
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    partitions("partition_indexes", &[int32("").role(Partition)]).of_scalars(),
                ],
            )
            .until(7),
            int8("require_stable").since(7),
        ],
        response: &[
            int32("throttle_time").since(3),
            keys(
                "groups",
                &[
                    string("group_id").role(Key),
                    topics(
                        "topics",
                        &[
                            uuid("topic_id").role(TopicId).since(10),
                            string("name").role(Topic).until(9),
                            partitions(
                                "partitions",
                                &[
                                    int32("partition_index").role(Partition),
                                    int64("committed_offset"),
                                    int32("committed_leader_epoch").or(-1),
                                    string("metadata").or_null(),
                                    int16("error_code").role(Error),
                                ],
                            ),
                        ],
                    ),
                    int16("error_code").role(Error),
                ],
            )
            .since(8),
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    partitions(
                        "partitions",
                        &[
                            int32("partition_index").role(Partition),
                            int64("committed_offset"),
                            int32("committed_leader_epoch").since(5).or(-1),
                            string("metadata").or_null(),
                            int16("error_code").role(Error),
                        ],
                    ),
                ],
            )
            .until(7),
            int16("error_code").role(Error).since(2).until(7),
        ],
    },
    // FindCoordinator
    Api {
        key: 10,
        versions: (0, 6),
        flexible: 3,
        denial: Denial::Group,
        request: &[
            string("key").until(3),
            int8("key_type").since(1),
            keys("coordinator_keys", &[string("").role(Key)]).of_scalars().since(4),
        ],
        response: &[
            int32("throttle_time").since(1),
            keys(
                "coordinators",
                &[
                    string("key").role(Key),
                    int32("node_id").or(-1),
                    string("host"),
                    int32("port").or(-1),
                    int16("error_code").role(Error),
                    string("error_message").or_null(),
                ],
            )
            .since(4),
            int16("error_code").role(Error).until(3),
            string("error_message").since(1).until(3).or_null(),
            int32("node_id").until(3).or(-1),
            string("host").until(3),
            int32("port").until(3).or(-1),
        ],
    },
    // JoinGroup
    Api {
        key: 11,
        versions: (0, 9),
        flexible: 6,
        denial: Denial::Group,
        request: &[
            string("group_id"),
            int32("session_timeout"),
            int32("rebalance_timeout").since(1),
            string("member_id"),
            string("group_instance_id").since(5),
            string("protocol_type"),
            array("protocols", &[string("name"), bytes("metadata")]),
            string("reason").since(8),
        ],
        response: &[
            int32("throttle_time").since(2),
            int16("error_code").role(Error),
            int32("generation_id").or(-1),
            string("protocol_type").since(7).or_null(),
            string("protocol_name"),
            string("leader"),
            int8("skip_assignment").since(9),
            string("member_id"),
            unread("members"),
        ],
    },
    // Heartbeat
    Api {
        key: 12,
        versions: (0, 4),
        flexible: 4,
        denial: Denial::Group,
        request: &[
            string("group_id"),
            int32("generation_id"),
            string("member_id"),
            string("group_instance_id").since(3),
        ],
        response: &[int32("throttle_time").since(1), int16("error_code").role(Error)],
    },
    // LeaveGroup
    Api {
        key: 13,
        versions: (0, 5),
        flexible: 4,
        denial: Denial::Group,
        request: &[
            string("group_id"),
            array(
                "members",
                &[string("member_id"), string("group_instance_id"), string("reason").since(5)],
            )
            .since(3),
            string("member_id").until(2),
        ],
        response: &[
            int32("throttle_time").since(1),
            int16("error_code").role(Error),
            unread("members").since(3),
        ],
    },
    // SyncGroup
    Api {
        key: 14,
        versions: (0, 5),
        flexible: 4,
        denial: Denial::Group,
        request: &[
            string("group_id"),
            int32("generation_id"),
            string("member_id"),
            string("group_instance_id").since(3),
            string("protocol_type").since(5),
            string("protocol_name").since(5),
            array("assignments", &[string("member_id"), bytes("assignment")]),
        ],
        response: &[
            int32("throttle_time").since(1),
            int16("error_code").role(Error),
            string("protocol_type").since(5).or_null(),
            string("protocol_name").since(5).or_null(),
            bytes("assignment"),
        ],
    },
    // DescribeGroups
    Api {
        key: 15,
        versions: (0, 6),
        flexible: 5,
        denial: Denial::Group,
        request: &[
            keys("groups", &[string("").role(Key)]).of_scalars(),
            int8("include_authorized_operations").since(3),
        ],
        response: &[
            int32("throttle_time").since(1),
            keys(
                "groups",
                &[
                    int16("error_code").role(Error),
                    string("error_message").since(6).or_null(),
                    string("group_id").role(Key),
                    string("group_state"),
                    string("protocol_type"),
                    string("protocol_data"),
                    unread("members"),
                    int32("authorized_operations").since(3).or(i32::MIN as i64),
                ],
            ),
        ],
    },
    // ListGroups
    Api {
        key: 16,
        versions: (0, 5),
        flexible: 3,
        denial: Denial::Cluster,
        request: &[
            array("states_filter", &[string("")]).of_scalars().since(4),
            array("types_filter", &[string("")]).of_scalars().since(5),
        ],
        response: &[
            int32("throttle_time").since(1),
            int16("error_code").role(Error),
            unread("groups"),
        ],
    },
    // DeleteGroups
    Api {
        key: 42,
        versions: (0, 2),
        flexible: 2,
        denial: Denial::Group,
        request: &[keys("groups_names", &[string("").role(Key)]).of_scalars()],
        response: &[
            int32("throttle_time"),
            keys("results", &[string("group_id").role(Key), int16("error_code").role(Error)]),
        ],
    },
    // OffsetDelete
    Api {
        key: 47,
        versions: (0, 0),
        flexible: MAX,
        denial: Denial::Group,
        request: &[
            string("group_id"),
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    partitions("partitions", &[int32("partition_index").role(Partition)]),
                ],
            ),
        ],
        response: &[
            int16("error_code").role(Error),
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
    // ConsumerGroupHeartbeat
    Api {
        key: 68,
        versions: (0, 1),
        flexible: 0,
        denial: Denial::Group,
        request: &[
            string("group_id"),
            string("member_id"),
            int32("member_epoch"),
            string("instance_id"),
            string("rack_id"),
            int32("rebalance_timeout"),
            topics("subscribed_topic_names", &[string("").role(Topic)]).of_scalars(),
            string("subscribed_topic_regex").since(1),
            string("server_assignor"),
            array(
                "topic_partitions",
                &[uuid("topic_id"), array("partitions", &[int32("")]).of_scalars()],
            ),
        ],
        response: &[
            int32("throttle_time"),
            int16("error_code").role(Error),
            string("error_message").or_null(),
            string("member_id").or_null(),
            int32("member_epoch"),
            int32("heartbeat_interval"),
            unread_struct("assignment").or_null(),
        ],
    },
    // ConsumerGroupDescribe
    Api {
        key: 69,
        versions: (0, 1),
        flexible: 0,
        denial: Denial::Group,
        request: &[
            keys("group_ids", &[string("").role(Key)]).of_scalars(),
            int8("include_authorized_operations"),
        ],
        response: &[
            int32("throttle_time"),
            keys(
                "groups",
                &[
                    int16("error_code").role(Error),
                    string("error_message").or_null(),
                    string("group_id").role(Key),
                    string("group_state"),
                    int32("group_epoch"),
                    int32("assignment_epoch"),
                    string("assignor_name"),
                    unread("members"),
                    int32("authorized_operations").or(i32::MIN as i64),
                ],
            ),
        ],
    },
];
