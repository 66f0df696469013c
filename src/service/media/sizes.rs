//! Which thumbnail answers a wish: pure arithmetic over sizes, no pixels.
//!
//! Two questions. [`Sizes::choose`]: which of the listed sizes is made for a wish, never a smaller one than wished for
//! (spec: client-server API, "Thumbnails"). [`fit`]: which part of an image is scaled to what, never enlarged.

/// How an image is brought to a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Fills the box; what stands out is cut off.
    Crop,
    /// Fits into the box as a whole.
    Scale,
}

impl Method {
    /// As the specification spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crop => "crop",
            Self::Scale => "scale",
        }
    }
}

/// A box and what is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Into the box, or over it.
    pub method: Method,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The box.
    pub size: Size,
    /// Whether it should move; otherwise it must not.
    pub animated: bool,
}

/// Which thumbnails are made.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// The sizes that are made.
    pub listed: Vec<Size>,
    /// Whether the size asked for is made exactly.
    pub dynamic: bool,
}

impl Default for Sizes {
    /// The sizes that the specification names.
    fn default() -> Self {
        let size = |width, height, method| Size { width, height, method };
        Self {
            listed: vec![
                size(32, 32, Method::Crop),
                size(96, 96, Method::Crop),
                size(320, 240, Method::Scale),
                size(640, 480, Method::Scale),
                size(800, 600, Method::Scale),
            ],
            dynamic: false,
        }
    }
}

/// No thumbnail is wider or higher.
const LARGEST: u32 = 1 << 15;

impl Sizes {
    /// The size to make for a wish. Where the list ends below it, the largest of the list is doubled until it suffices:
    /// so few different ones are made of an image, whatever is wished for. A crop of a shape that is not listed is made
    /// as wished, unless `few` says that many of this image exist already.
    #[must_use]
    pub fn choose(&self, wish: Size, few: bool) -> Size {
        let wish = Size { width: wish.width.clamp(1, LARGEST), height: wish.height.clamp(1, LARGEST), ..wish };
        if !few && self.dynamic {
            return wish;
        }
        let suits = |s: &Size| s.method == wish.method && (wish.method == Method::Scale || same_shape(*s, wish));
        match (covering(self.listed.iter().copied().filter(suits), wish), wish.method) {
            (Some(size), _) => size,
            (None, Method::Crop) if !few => wish,
            (None, method) => {
                let scales = self.listed.iter().copied().filter(|s| s.method == Method::Scale);
                let base = Size { width: 640, height: 480, method: Method::Scale };
                let wish = Size { method: Method::Scale, ..wish };
                covering(scales.chain([base]), wish).unwrap_or(Size { method, ..wish })
            }
        }
    }
}

/// The smallest of the sizes that covers a wish, or the largest of them, doubled until it does.
fn covering(sizes: impl Iterator<Item = Size> + Clone, wish: Size) -> Option<Size> {
    let covers = |s: &Size| s.width >= wish.width && s.height >= wish.height;
    let area = |s: &Size| u64::from(s.width) * u64::from(s.height);
    if let Some(size) = sizes.clone().filter(covers).min_by_key(area) {
        return Some(size);
    }
    let mut size = sizes.filter(|s| s.width > 0 && s.height > 0).max_by_key(area)?;
    while !covers(&size) {
        size.width = size.width.saturating_mul(2);
        size.height = size.height.saturating_mul(2);
    }
    Some(size)
}

/// Whether two boxes have the same proportions, up to two percent.
fn same_shape(a: Size, b: Size) -> bool {
    let (x, y) = (u64::from(a.width) * u64::from(b.height), u64::from(b.width) * u64::from(a.height));
    x.abs_diff(y) * 50 <= x.max(y)
}

/// A part of an image and what it is scaled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Left edge of the part.
    pub x: u32,
    /// Upper edge of the part.
    pub y: u32,
    /// Width of the part.
    pub from_width: u32,
    /// Height of the part.
    pub from_height: u32,
    /// Scaled to this width.
    pub width: u32,
    /// Scaled to this height.
    pub height: u32,
}

/// How an image of that many pixels is brought to a size; `None` if it is small enough as it is.
#[must_use]
pub fn fit(width: u32, height: u32, size: Size) -> Option<Fit> {
    if width <= size.width && height <= size.height {
        return None;
    }
    let (w, h) = (u64::from(width.max(1)), u64::from(height.max(1)));
    let (to_w, to_h) = (u64::from(size.width.max(1)), u64::from(size.height.max(1)));
    let narrow = |n: u64| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
    let round = |n: u64, by: u64| (n + by / 2) / by;
    Some(match size.method {
        Method::Scale => {
            // The tighter of the two sides decides; the other follows.
            let (to_w, to_h) =
                if w * to_h > h * to_w { (to_w, round(h * to_w, w)) } else { (round(w * to_h, h), to_h) };
            let (width_to, height_to) = (narrow(to_w), narrow(to_h));
            Fit { x: 0, y: 0, from_width: width, from_height: height, width: width_to, height: height_to }
        }
        Method::Crop => {
            let from_w = narrow(w.min(round(h * to_w, to_h)));
            let from_h = narrow(h.min(round(w * to_h, to_w)));
            let (x, y) = ((width - from_w.min(width)) / 2, (height - from_h.min(height)) / 2);
            let (to_w, to_h) = if from_w >= size.width && from_h >= size.height {
                (size.width.max(1), size.height.max(1))
            } else {
                (from_w, from_h)
            };
            Fit { x, y, from_width: from_w, from_height: from_h, width: to_w, height: to_h }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crop(width: u32, height: u32) -> Size {
        Size { width, height, method: Method::Crop }
    }

    fn scale(width: u32, height: u32) -> Size {
        Size { width, height, method: Method::Scale }
    }

    #[test]
    fn the_smallest_listed_size_that_is_large_enough_is_made() {
        let sizes = Sizes::default();
        assert_eq!(sizes.choose(crop(30, 30), false), crop(32, 32));
        assert_eq!(sizes.choose(crop(33, 33), false), crop(96, 96));
        assert_eq!(sizes.choose(scale(1, 1), false), scale(320, 240));
        assert_eq!(sizes.choose(scale(321, 20), false), scale(640, 480));
        assert_eq!(sizes.choose(scale(800, 600), false), scale(800, 600));
    }

    #[test]
    fn beyond_the_list_sizes_double_and_no_wish_is_undercut() {
        let sizes = Sizes::default();
        assert_eq!(sizes.choose(crop(97, 97), false), crop(192, 192));
        assert_eq!(sizes.choose(scale(1600, 900), false), scale(1600, 1200));
        let huge = sizes.choose(scale(u32::MAX, u32::MAX), false);
        assert!(huge.width >= LARGEST && huge.height >= LARGEST);
    }

    #[test]
    fn a_crop_of_another_shape_is_made_exactly_while_there_are_few() {
        let sizes = Sizes::default();
        assert_eq!(sizes.choose(crop(50, 20), false), crop(50, 20));
        assert_eq!(sizes.choose(crop(50, 20), true), scale(320, 240));
        let none = Sizes { listed: Vec::new(), dynamic: false };
        assert_eq!(none.choose(scale(10, 10), false), scale(640, 480));
    }

    #[test]
    fn a_dynamic_server_makes_what_is_asked_until_there_are_many() {
        let sizes = Sizes { dynamic: true, ..Sizes::default() };
        assert_eq!(sizes.choose(scale(123, 45), false), scale(123, 45));
        assert_eq!(sizes.choose(scale(123, 45), true), scale(320, 240));
    }

    #[test]
    fn images_are_scaled_as_a_whole_and_never_enlarged() {
        assert_eq!(fit(800, 600, scale(800, 600)), None);
        let f = fit(1000, 500, scale(320, 240)).map(|f| (f.width, f.height, f.from_width, f.from_height));
        assert_eq!(f, Some((320, 160, 1000, 500)));
        let f = fit(10_000, 1, scale(32, 32)).map(|f| (f.width, f.height));
        assert_eq!(f, Some((32, 1)));
        let f = fit(100, 300, scale(320, 240)).map(|f| (f.width, f.height));
        assert_eq!(f, Some((80, 240)));
    }

    #[test]
    fn crops_are_taken_from_the_middle() {
        assert_eq!(
            fit(200, 100, crop(50, 50)),
            Some(Fit { x: 50, y: 0, from_width: 100, from_height: 100, width: 50, height: 50 })
        );
        // Too low to fill the box: the shape is kept, the size is not made up.
        assert_eq!(
            fit(1000, 20, crop(96, 96)),
            Some(Fit { x: 490, y: 0, from_width: 20, from_height: 20, width: 20, height: 20 })
        );
        assert_eq!(fit(20, 20, crop(96, 96)), None);
    }
}
