//! The published vectors of BIP340.

use concordat_threshold::{GroupKey, verify};

const VECTORS: &str = include_str!("../vectors/bip340.csv");

#[test]
fn published_bip340_vectors() {
    let (mut good, mut bad, mut other) = (0, 0, Vec::new());
    for row in VECTORS.lines().skip(1) {
        let cells: Vec<&str> = row.splitn(8, ',').collect();
        let index: u32 = cells[0].parse().unwrap();
        let key: [u8; 32] = hex::decode(cells[2]).unwrap().try_into().unwrap();
        let signature: [u8; 64] = hex::decode(cells[5]).unwrap().try_into().unwrap();
        let expected = cells[6] == "TRUE";
        let Ok(message) = <[u8; 32]>::try_from(hex::decode(cells[4]).unwrap()) else {
            // We sign hashes only: `verify` takes no message of another size.
            other.push(index);
            continue;
        };
        let got = GroupKey::from_bytes(&key).is_ok_and(|key| verify(&key, &message, &signature));
        assert_eq!(got, expected, "row {index}: {}", cells[7]);
        if expected { good += 1 } else { bad += 1 }
    }
    assert_eq!((good, bad), (5, 10));
    // Messages of 0, 1, 17 and 100 bytes.
    assert_eq!(other, [15, 16, 17, 18]);
}

#[test]
fn keys_that_are_no_points_are_refused() {
    // Rows 5 and 14: not on the curve; not below the field size.
    for row in [5, 14] {
        let cell = VECTORS.lines().nth(row + 1).unwrap().split(',').nth(2).unwrap();
        let key: [u8; 32] = hex::decode(cell).unwrap().try_into().unwrap();
        assert!(GroupKey::from_bytes(&key).is_err());
    }
}
