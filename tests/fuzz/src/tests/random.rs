//! The targets over random bytes: a little of what the fuzzer does, in every run of the tests.

use proptest::prelude::*;

use crate::{disk, engine, header, image, nbd, ring, xenbus};

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_engine_is_a_plain_disk_whatever_fails(data in bytes()) {
        engine(&data);
    }

    #[test]
    fn a_disk_is_a_plain_disk_whatever_system_calls_do(data in bytes()) {
        disk(&data);
    }

    #[test]
    fn what_an_nbd_client_sends_is_answered_or_refused(data in bytes()) {
        nbd(&data);
    }

    #[test]
    fn each_request_on_a_ring_is_answered_once_as_what_it_is(data in bytes()) {
        ring(&data);
    }

    #[test]
    fn a_device_keeps_the_rules_of_xenbus_through_all_of_its_lives(data in bytes()) {
        xenbus(&data);
    }

    #[test]
    fn headers_and_bitmaps_are_understood_or_refused(data in bytes()) {
        header(&data);
    }

    #[test]
    fn an_image_opens_and_can_be_used_or_does_not_open(data in bytes()) {
        image(&data);
    }
}
