//! Connections, topics and configuration.

use super::Role::*;
use super::{
    Api, Denial, MAX, array, bytes, int8, int16, int32, int64, partitions, string, topics, unread,
    uuid,
};

/// The APIs.
pub(super) static APIS: &[Api] = &[
    // SaslHandshake
    Api {
        key: 17,
        versions: (0, 1),
        flexible: MAX,
        denial: Denial::Cluster,
        request: &[string("mechanism")],
        response: &[int16("error_code").role(Error), unread("mechanisms")],
    },
    // ApiVersions
    Api {
        key: 18,
        versions: (0, 4),
        flexible: 3,
        denial: Denial::Cluster,
        request: &[
            string("client_software_name").since(3),
            string("client_software_version").since(3),
        ],
        response: &[
            int16("error_code").role(Error),
            unread("api_keys"),
            int32("throttle_time").since(1),
        ],
    },
    // CreateTopics
    Api {
        key: 19,
        versions: (0, 7),
        flexible: 5,
        denial: Denial::Topic,
        request: &[
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    int32("num_partitions"),
                    int16("replication_factor"),
                    array(
                        "assignments",
                        &[int32("partition_index"), array("broker_ids", &[int32("")]).of_scalars()],
                    ),
                    array("configs", &[string("name"), string("value")]),
                ],
            ),
            int32("timeout"),
            int8("validate_only").since(1),
        ],
        response: &[
            int32("throttle_time").since(2),
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    uuid("topic_id").role(TopicId).since(7),
                    int16("error_code").role(Error),
                    string("error_message").since(1).or_null(),
                    int32("num_partitions").since(5).or(-1),
                    int16("replication_factor").since(5).or(-1),
                    unread("configs").since(5).or_null(),
                ],
            ),
        ],
    },
    // DeleteTopics
    Api {
        key: 20,
        versions: (0, 6),
        flexible: 4,
        denial: Denial::Topic,
        request: &[
            topics("topics", &[string("name").role(Topic), uuid("topic_id").role(TopicId)])
                .since(6),
            topics("topic_names", &[string("").role(Topic)]).of_scalars().until(5),
            int32("timeout"),
        ],
        response: &[
            int32("throttle_time").since(1),
            topics(
                "responses",
                &[
                    string("name").role(Topic),
                    uuid("topic_id").role(TopicId).since(6),
                    int16("error_code").role(Error),
                    string("error_message").since(5).or_null(),
                ],
            ),
        ],
    },
    // DescribeConfigs
    Api {
        key: 32,
        versions: (0, 4),
        flexible: 4,
        denial: Denial::Cluster,
        request: &[
            topics(
                "resources",
                &[
                    int8("resource_type").role(ResourceType),
                    string("resource_name").role(Topic),
                    array("configuration_keys", &[string("")]).of_scalars(),
                ],
            ),
            int8("include_synonyms").since(1),
            int8("include_documentation").since(3),
        ],
        response: &[
            int32("throttle_time"),
            topics(
                "results",
                &[
                    int16("error_code").role(Error),
                    string("error_message").or_null(),
                    int8("resource_type").role(ResourceType),
                    string("resource_name").role(Topic),
                    unread("configs"),
                ],
            ),
        ],
    },
    // AlterConfigs
    Api {
        key: 33,
        versions: (0, 2),
        flexible: 2,
        denial: Denial::Cluster,
        request: &[
            topics(
                "resources",
                &[
                    int8("resource_type").role(ResourceType),
                    string("resource_name").role(Topic),
                    array("configs", &[string("name"), string("value")]),
                ],
            ),
            int8("validate_only"),
        ],
        response: &[
            int32("throttle_time"),
            topics(
                "responses",
                &[
                    int16("error_code").role(Error),
                    string("error_message").or_null(),
                    int8("resource_type").role(ResourceType),
                    string("resource_name").role(Topic),
                ],
            ),
        ],
    },
    // SaslAuthenticate
    Api {
        key: 36,
        versions: (0, 2),
        flexible: 2,
        denial: Denial::Cluster,
        request: &[bytes("auth_bytes")],
        response: &[
            int16("error_code").role(Error),
            string("error_message").or_null(),
            bytes("auth_bytes"),
            int64("session_lifetime").since(1),
        ],
    },
    // CreatePartitions
    Api {
        key: 37,
        versions: (0, 3),
        flexible: 2,
        denial: Denial::Topic,
        request: &[
            topics(
                "topics",
                &[
                    string("name").role(Topic),
                    int32("count"),
                    array("assignments", &[array("broker_ids", &[int32("")]).of_scalars()]),
                ],
            ),
            int32("timeout"),
            int8("validate_only"),
        ],
        response: &[
            int32("throttle_time"),
            topics(
                "results",
                &[
                    string("name").role(Topic),
                    int16("error_code").role(Error),
                    string("error_message").or_null(),
                ],
            ),
        ],
    },
    // ElectLeaders
    Api {
        key: 43,
        versions: (0, 2),
        flexible: 2,
        denial: Denial::Topic,
        request: &[
            int8("election_type").since(1),
            topics(
                "topic_partitions",
                &[
                    string("topic").role(Topic),
                    partitions("partitions", &[int32("").role(Partition)]).of_scalars(),
                ],
            ),
            int32("timeout"),
        ],
        response: &[
            int32("throttle_time"),
            int16("error_code").role(Error).since(1),
            topics(
                "replica_election_results",
                &[
                    string("topic").role(Topic),
                    partitions(
                        "partition_result",
                        &[
                            int32("partition_id").role(Partition),
                            int16("error_code").role(Error),
                            string("error_message").or_null(),
                        ],
                    ),
                ],
            ),
        ],
    },
    // IncrementalAlterConfigs
    Api {
        key: 44,
        versions: (0, 1),
        flexible: 1,
        denial: Denial::Cluster,
        request: &[
            topics(
                "resources",
                &[
                    int8("resource_type").role(ResourceType),
                    string("resource_name").role(Topic),
                    array("configs", &[string("name"), int8("config_operation"), string("value")]),
                ],
            ),
            int8("validate_only"),
        ],
        response: &[
            int32("throttle_time"),
            topics(
                "responses",
                &[
                    int16("error_code").role(Error),
                    string("error_message").or_null(),
                    int8("resource_type").role(ResourceType),
                    string("resource_name").role(Topic),
                ],
            ),
        ],
    },
    // DescribeCluster
    Api {
        key: 60,
        versions: (0, 2),
        flexible: 0,
        denial: Denial::Cluster,
        request: &[
            int8("include_cluster_authorized_operations"),
            int8("endpoint_type").since(1),
            int8("include_fenced_brokers").since(2),
        ],
        response: &[
            int32("throttle_time"),
            int16("error_code").role(Error),
            string("error_message").or_null(),
            int8("endpoint_type").since(1).or(1),
            string("cluster_id"),
            int32("controller_id").or(-1),
            unread("brokers"),
            int32("cluster_authorized_operations").or(i32::MIN as i64),
        ],
    },
    // GetTelemetrySubscriptions
    Api {
        key: 71,
        versions: (0, 0),
        flexible: 0,
        denial: Denial::Cluster,
        request: &[uuid("client_instance_id")],
        response: &[
            int32("throttle_time"),
            int16("error_code").role(Error),
            uuid("client_instance_id"),
            int32("subscription_id"),
            unread("accepted_compression_types"),
            int32("push_interval"),
            int32("telemetry_max_bytes"),
            int8("delta_temporality"),
            unread("requested_metrics"),
        ],
    },
    // PushTelemetry
    Api {
        key: 72,
        versions: (0, 0),
        flexible: 0,
        denial: Denial::Cluster,
        request: &[
            uuid("client_instance_id"),
            int32("subscription_id"),
            int8("terminating"),
            int8("compression_type"),
            bytes("metrics"),
        ],
        response: &[int32("throttle_time"), int16("error_code").role(Error)],
    },
];
