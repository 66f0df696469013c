//! Images of each format are scaled, turned and stilled; what is no image, or too much of one, is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Cursor;

use image::{Delay, GenericImageView as _, Rgba, RgbaImage};

use super::{super::sizes::Method, *};

const PIXELS: u64 = 1 << 20;

fn picture(width: u32, height: u32, alpha: u8) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| {
        Rgba([u8::try_from(x * 255 / width).unwrap(), u8::try_from(y * 255 / height).unwrap(), 128, alpha])
    })
}

fn encode(image: RgbaImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = DynamicImage::ImageRgba8(image);
    let image = if format == ImageFormat::Jpeg { DynamicImage::ImageRgb8(image.into_rgb8()) } else { image };
    image.write_to(Cursor::new(&mut bytes), format).unwrap();
    bytes
}

fn animation(width: u32, height: u32, frames: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for n in 0..frames {
        let image = RgbaImage::from_pixel(width, height, Rgba([n * 40, 0, 0, 255]));
        encoder.encode_frame(Frame::from_parts(image, 0, 0, Delay::from_numer_denom_ms(100, 1))).unwrap();
    }
    drop(encoder);
    bytes
}

fn to(width: u32, height: u32, method: Method) -> Size {
    Size { width, height, method }
}

fn run(bytes: &[u8], size: Size, animated: bool) -> Result<Made, Refused> {
    make(Cursor::new(bytes), size, animated, PIXELS)
}

fn scaled(made: Result<Made, Refused>) -> (DynamicImage, Vec<u8>, &'static str) {
    let Ok(Made::Scaled(bytes, content_type)) = made else { panic!("not scaled: {made:?}") };
    assert_eq!(image::guess_format(&bytes).unwrap().to_mime_type(), content_type);
    (image::load_from_memory(&bytes).unwrap(), bytes, content_type)
}

#[test]
fn every_format_is_scaled_and_cropped() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        let bytes = encode(picture(400, 200, 255), format);
        let (image, _, content_type) = scaled(run(&bytes, to(100, 100, Method::Scale), false));
        let form = if format == ImageFormat::Png { "image/png" } else { "image/jpeg" };
        assert_eq!((image.dimensions(), content_type), ((100, 50), form), "{format:?}");
        let (image, ..) = scaled(run(&bytes, to(60, 60, Method::Crop), true));
        assert_eq!(image.dimensions(), (60, 60), "{format:?}");
        // The middle of the width, the whole of the height.
        let left = image.get_pixel(1, 30).0[0];
        assert!((50..90).contains(&left), "{format:?}: {left}");
    }
}

#[test]
fn what_shines_through_stays_so() {
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let bytes = encode(picture(100, 100, 40), format);
        let (image, _, content_type) = scaled(run(&bytes, to(20, 20, Method::Scale), false));
        assert_eq!((content_type, image.get_pixel(5, 5).0[3]), ("image/png", 40));
    }
}

#[test]
fn a_small_image_is_served_as_it_is() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        let bytes = encode(picture(30, 20, 255), format);
        assert_eq!(run(&bytes, to(32, 32, Method::Crop), false), Ok(Made::Original(format.to_mime_type())));
    }
}

#[test]
fn an_animation_moves_only_when_wished() {
    let bytes = animation(100, 100, 3);
    let (_, moving, content_type) = scaled(run(&bytes, to(50, 50, Method::Scale), true));
    assert_eq!(content_type, "image/gif");
    let frames = GifDecoder::new(Cursor::new(&moving)).unwrap().into_frames().collect_frames().unwrap();
    assert_eq!((frames.len(), frames[0].buffer().dimensions()), (3, (50, 50)));

    let (_, _, content_type) = scaled(run(&bytes, to(50, 50, Method::Scale), false));
    assert_eq!(content_type, "image/jpeg");

    // Small enough as it is, but it must not move.
    let (image, _, content_type) = scaled(run(&bytes, to(200, 200, Method::Scale), false));
    assert_eq!((content_type, image.dimensions()), ("image/jpeg", (100, 100)));
    assert_eq!(run(&bytes, to(200, 200, Method::Scale), true), Ok(Made::Original("image/gif")));
}

#[test]
fn an_animation_that_is_too_long_stands_still() {
    let bytes = animation(100, 100, 5);
    let made = make(Cursor::new(&bytes), to(50, 50, Method::Scale), true, 10_000);
    assert_eq!(scaled(made).2, "image/jpeg", "five pictures are more than four times the largest image");
}

#[test]
fn a_turned_photograph_is_turned_upright() {
    let bytes = encode(picture(200, 100, 255), ImageFormat::Jpeg);
    // APP1 with one EXIF tag: orientation 6, to be turned by 90 degrees.
    let exif =
        [b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01".as_slice(), b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"]
            .concat();
    let turned = [&bytes[..2], &exif, &bytes[2..]].concat();
    let (image, ..) = scaled(run(&turned, to(50, 100, Method::Scale), false));
    assert_eq!(image.dimensions(), (50, 100));
    let (image, ..) = scaled(run(&bytes, to(50, 100, Method::Scale), false));
    assert_eq!(image.dimensions(), (50, 25));
}

/// A PNG that says to be larger than it is, with its checksum right.
fn png_claiming(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encode(picture(1, 1, 255), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = !bytes[12..29].iter().fold(!0u32, |mut crc, byte| {
        crc ^= u32::from(*byte);
        (0..8).for_each(|_| crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 });
        crc
    });
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[test]
fn bombs_are_refused_before_they_are_unpacked() {
    let small = to(32, 32, Method::Crop);
    assert_eq!(run(&png_claiming(60_000, 60_000), small, false), Err(Refused::TooLarge));
    assert_eq!(run(&png_claiming(u32::MAX >> 1, u32::MAX >> 1), small, false), Err(Refused::TooLarge));

    // The screen of a GIF, and a picture that is larger than its screen.
    let mut gif = encode(picture(40, 40, 255), ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0xff; 4]);
    assert_eq!(run(&gif, small, false), Err(Refused::TooLarge));
    let mut gif = animation(40, 40, 2);
    let descriptor = gif.windows(9).position(|w| w == [0x2c, 0, 0, 0, 0, 40, 0, 40, 0]).unwrap();
    gif[descriptor + 5..descriptor + 9].copy_from_slice(&[0xff; 4]);
    assert!(run(&gif, small, true).is_err());

    // Within the pixels allowed, but with nothing behind it.
    assert_eq!(run(&png_claiming(1000, 1000), small, false), Err(Refused::Unreadable));
}

#[test]
fn what_is_no_image_is_refused() {
    let small = to(32, 32, Method::Crop);
    let png = encode(picture(100, 100, 255), ImageFormat::Png);
    for bytes in
        [b"".as_slice(), b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4", &png[..20], &png[..200]]
    {
        assert_eq!(run(bytes, small, false), Err(Refused::Unreadable), "{bytes:?}");
    }
}

#[test]
fn rubbish_in_the_middle_of_an_image_never_panics() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP] {
        let bytes = encode(picture(64, 64, 200), format);
        for at in (12..bytes.len()).step_by(bytes.len().div_ceil(80)) {
            let mut broken = bytes.clone();
            broken[at] ^= 0x5a;
            let _ = run(&broken, to(16, 16, Method::Scale), true);
        }
    }
}
