//! Several clients.

use std::io::ErrorKind;
use std::thread;
use std::time::Duration;

use super::client::*;
use super::rig::*;

#[test]
fn several_clients_write_and_read_side_by_side() {
    let rig = Rig::new();
    let clients: Vec<_> = (0..6_u8)
        .map(|number| {
            let mut client = rig.client();
            thread::spawn(move || {
                // Neighbours share blocks: each writes every sixth sector.
                for round in 0..40_u64 {
                    let value = number + 6 * u8::try_from(round).unwrap();
                    for sector in (u64::from(number)..96).step_by(6) {
                        assert_eq!(client.write(0, sector * 512, &[value; 512]), 0);
                    }
                    for sector in (u64::from(number)..96).step_by(6) {
                        assert_eq!(client.read(sector * 512, 512), [value; 512]);
                    }
                    assert_eq!(client.command(0, FLUSH, 0, 0), 0);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(rig.stop().check().allocated_blocks, 12);
}

#[test]
fn more_clients_than_allowed_wait_for_their_turn() {
    let rig = Rig::with(Setup {
        clients_max: 2,
        ..Setup::default()
    });
    let (mut first, second) = (rig.client(), rig.client());
    let mut third = rig.connect();
    third
        .socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let error = std::io::Read::read(&mut third.socket, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(first.read(0, 512), [0x55; 512]);
    drop(second);
    third
        .socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    third.negotiate();
    assert_eq!(third.read(0, 512), [0x55; 512]);
    rig.stop();
}
