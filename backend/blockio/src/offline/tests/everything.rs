//! Any disks at all, through everything.

use proptest::prelude::*;

use super::*;

/// What is written to an image: start, length, byte; zeros are common.
fn writes() -> impl Strategy<Value = Vec<(u64, usize, u8)>> {
    let write = (0..4000_u64, 1..200_usize, 0..4_u8);
    proptest::collection::vec(
        write.prop_map(|(start, len, byte)| (start * 512, len * 512, byte)),
        0..6,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_an_image_shows_survives_everything(
        low in writes(),
        middle in writes(),
        high in writes(),
        other in writes(),
        shifts in [12..18_u32, 12..18_u32, 12..18_u32],
    ) {
        let folder = Folder::new();
        let base = folder.raw("base.img", 2 * MIB + 1536, &low);
        let size = fs::metadata(&base).unwrap().len().max(2_151_424);
        let base_bytes = content(&base);
        let another = folder.path("another.img");
        fs::write(&another, &base_bytes).unwrap();
        let block = |i: usize| 1 << shifts[i];
        let mid = folder.overlay("mid.cow", &base, Some(size + 512), block(0));
        write(&mid, &middle);
        let top = folder.overlay("top.cow", &mid, Some(size + 1024), block(1));
        write(&top, &high);
        let new = folder.overlay("new.cow", &another, Some(size), block(2));
        write(&new, &other);
        let before = content(&top);

        let thin = folder.path("thin.cow");
        to_dscow(&top, &thin, Some(&new), block(2));
        prop_assert_eq!(&content(&thin), &before);
        let flat = folder.path("flat.img");
        to_raw(&thin, &flat);
        prop_assert_eq!(&content(&flat), &before);

        let mut by_content = vec![false; before.len() / 512];
        let other_bytes = content(&new);
        diff((&top, DETECT), (&new, DETECT), Comparison::Content, &mut Silent, &mut |found| {
            let sectors = found.range.start.0 / 512..found.range.end() / 512;
            for sector in sectors {
                by_content[usize::try_from(sector).unwrap()] = true;
            }
            Ok(())
        }).unwrap();
        for (sector, bytes) in before.chunks(512).enumerate() {
            let there = other_bytes.get(sector * 512..sector * 512 + 512).unwrap_or(&[0; 512]);
            prop_assert!(by_content[sector] || bytes == there, "sector {sector}");
        }

        rebase(&top, Some((&new, DETECT)), &mut Silent).unwrap();
        prop_assert_eq!(&content(&top), &before);
        rebase(&top, Some((&mid, DETECT)), &mut Silent).unwrap();
        prop_assert_eq!(&content(&top), &before);
        rebase(&top, Some((&base, DETECT)), &mut Silent).unwrap();
        prop_assert_eq!(&content(&top), &before);
        fs::remove_file(&mid).unwrap();
        commit(&top, &mut Silent).unwrap();
        prop_assert_eq!(&content(&top), &before);
        prop_assert_eq!(&content(&base), &before);
        prop_assert_eq!(allocated(&top), 0);
    }
}
