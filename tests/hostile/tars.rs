//! Layers whose tar is not what a tar should be, and archives that are none.

use super::cases::{Case, Content, Form, good, unikernel};
use super::saved_image::{Layer, Tar, docker_legacy, gzip, tar_of};

pub fn all() -> Vec<Case> {
    [names(), kinds(), links(), whiteouts(), headers(), sizes(), archives(), cut()].into_iter().flatten().collect()
}

fn names() -> Vec<Case> {
    vec![
        Case::tar("an absolute name", good().file("/etc/passwd", "x"), "absolute name: /etc/passwd"),
        Case::tar("a name upwards", good().file("../x", "x"), "leads upwards: ../x"),
        Case::tar("a name down and up", good().file("a/../../x", "x"), "leads upwards"),
        Case::tar("a PAX name upwards", good().pax(&[("path", "../x")]).file("x", "x"), "leads upwards"),
        Case::tar("a GNU name, absolute", good().entry("././@LongLink", b'L', b"/x\0").file("x", "x"), "absolute name"),
        Case::tar("a NUL in a name", good().pax(&[("path", "a\0b")]).file("x", "x"), "NUL"),
        Case::tar("no name", good().file("", "x"), "without a name"),
        Case::tar("a terminal's commands in a name", good().file("/\u{1b}[2J\r\n", "x"), "/\\u{1b}[2J\\r\\n"),
        Case::tar("a name that is no UTF-8", good().raw(&bytes_in_name(), b""), "absolute name: /\u{fffd}\u{fffd}x"),
        Case::tar("a name of 5000 bytes", good().pax(&[("path", &"n".repeat(5000))]).file("x", "x"), "is too long"),
    ]
}

fn bytes_in_name() -> tar::Header {
    let mut header = Tar::header("", b'0', 0);
    header.as_old_mut().name[..4].copy_from_slice(b"/\xff\xfex");
    header.set_cksum();
    header
}

fn kinds() -> Vec<Case> {
    let instead = |kind| Tar::new().entry("unikernel.hvt", kind, b"");
    vec![
        Case::tar("a character device", instead(b'3'), "is a character device"),
        Case::tar("a block device", instead(b'4'), "is a block device"),
        Case::tar("a fifo", instead(b'6'), "is a fifo"),
        Case::tar("a folder", Tar::new().folder("unikernel.hvt"), "is a directory"),
        Case::tar("a multi-volume entry", good().entry("m", b'M', b""), "unknown type 'M'"),
        Case::tar("a sparse file of GNU", good().entry("s", b'S', b""), "sparse file"),
        Case::tar("a sparse file of PAX", good().pax(&[("GNU.sparse.major", "1")]).file("s", "x"), "sparse file"),
    ]
}

fn links() -> Vec<Case> {
    let link = |target| Tar::new().symlink("unikernel.hvt", target);
    let circle = link("x").symlink("x", "unikernel.hvt");
    let chain = (0..60).fold(link("0"), |tar, number| tar.symlink(&number.to_string(), &(number + 1).to_string()));
    let hard = |target| Tar::new().hard_link("unikernel.hvt", target);
    vec![
        Case::tar("a link to the host's passwords", link("/etc/passwd"), "leads to /etc/passwd, which is not"),
        Case::tar("a link to the worker itself", link("/proc/self/exe"), "leads to /proc/self/exe, which is not"),
        Case::tar("a link out of the image", link("../../../etc/shadow"), "leads to /etc/shadow, which is not"),
        Case::tar("a link back up", link("a/../x"), "back up behind a name"),
        Case::tar("a link to itself", link("unikernel.hvt"), "circle of links"),
        Case::tar("a circle of links", circle, "circle of links"),
        Case::tar("a chain of sixty links", chain, "more than 40"),
        Case::tar("a hard link to the host's passwords", hard("/etc/shadow"), "leads to /etc/shadow, which is not"),
        Case::tar("a hard link upwards", hard("../../etc/shadow"), "leads upwards"),
        Case::tar("a hard link to a link", hard("l").symlink("l", "x"), "hard link to a symbolic link"),
        Case::tar("a hard link to itself", hard("unikernel.hvt"), "circle of links"),
    ]
}

fn whiteouts() -> Vec<Case> {
    let deep =
        || Layer::plain(Tar::new().file("d/unikernel.spt", unikernel()).symlink("unikernel.hvt", "d/unikernel.spt"));
    let over = |name, upper: Tar, says| {
        Case::docker(name, tar_of(&docker_legacy(&[(&["a:1"], &[deep(), Layer::plain(upper)])])), says)
    };
    vec![
        Case::tar("a whiteout of the unikernel", Tar::new().file(".wh.unikernel.spt", ""), "not in the image"),
        over("a whiteout of its folder", Tar::new().file(".wh.d", ""), "which is not in the image"),
        over("an opaque folder", Tar::new().file("d/.wh..wh..opq", ""), "which is not in the image"),
        over("a file where its folder was", Tar::new().file("d", "x"), "which is not in the image"),
        Case::tar("an opaque root", Tar::new().file(".wh..wh..opq", ""), "not in the image"),
        Case::tar("a whiteout of nothing", good().file(".wh.", ""), "whiteout that names nothing"),
        Case::tar("the unikernel twice", good().file("unikernel.spt", "another"), "has /unikernel.spt twice"),
        Case::tar("the unikernel twice, otherwise", good().file("./unikernel.spt", "x"), "has /unikernel.spt twice"),
        Case::tar("a file and a folder", good().file("unikernel.spt/x", ""), "has /unikernel.spt twice"),
    ]
}

fn headers() -> Vec<Case> {
    let extended = |records: &str| good().entry("x", b'x', records.as_bytes()).file("a", "x");
    let twice = Tar::new().pax(&[("path", "a")]).pax(&[("path", "b")]).file("c", "x");
    let both = Tar::new().entry("././@LongLink", b'L', b"a\0").pax(&[("path", "b")]).file("c", "x");
    let claims = |kind| good().raw(&Tar::header("x", kind, 8 << 30), b"");
    vec![
        Case::tar("a PAX header that is damaged", extended("99 path=x\n"), "damaged extended header"),
        Case::tar("a PAX record of no length", extended("0 a=\n"), "damaged extended header"),
        Case::tar("a PAX record of negative length", extended("-3 a=b\n"), "damaged extended header"),
        Case::tar("a PAX header of 8 GiB", claims(b'x'), "more than the limit of"),
        Case::tar("a global header of 8 GiB", claims(b'g'), "more than the limit of"),
        Case::tar("a GNU name of 8 GiB", claims(b'L'), "more than the limit of"),
        Case::tar("two PAX headers", twice, "same extended header twice"),
        Case::tar("two names of one entry", both, "one entry two names"),
        Case::tar("one name for all", good().entry("g", b'g', b"12 path=all\n").file("c", "x"), "same name"),
        Case::tar("nothing behind a PAX header", good().pax(&[("path", "x")]), "ends after an extended header"),
        Case::tar("a folder with a size", good().raw(&Tar::header("d/", b'5', 512), &[0; 512]), "a directory, a size"),
    ]
}

fn sizes() -> Vec<Case> {
    let field = |size: [u8; 12]| {
        let mut header = Tar::header("unikernel.hvt", b'0', 0);
        header.as_old_mut().size = size;
        header.set_cksum();
        Tar::new().raw(&header, b"")
    };
    let record = |size| Tar::new().pax(&[("size", size)]).file("unikernel.hvt", "x");
    let negative = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
    let huge =
        Case::tar("a unikernel of 8 EiB", field([0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc, 0]), "");
    let large =
        Case::tar("a unikernel of 1 GiB", Tar::new().raw(&Tar::header("unikernel.hvt", b'0', 1 << 30), b""), "");
    vec![
        Case::tar("a negative size in base 256", field(negative), "size that is negative"),
        Case::tar("a negative size in octal", field(*b"-0000000001\0"), "size that is negative"),
        Case::tar("a size of letters", field(*b"0000000zz89\0"), "size that is no number"),
        Case::tar("a size beyond 64 bits", field([0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "no file can have"),
        Case::tar(
            "a size that overflows with its padding",
            field([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            "no file can have",
        ),
        Case::tar("a negative PAX size", record("-1"), "says the size is -1"),
        Case::tar("a PAX size beyond 64 bits", record("99999999999999999999"), "says the size is 999"),
        Case::tar(
            "more than its layer has",
            Tar::new().raw(&Tar::header("unikernel.hvt", b'0', 9999), b"x"),
            "cut off",
        ),
        Case { error: "ImageTooLarge", says: "limits.image-size", ..huge },
        Case { error: "ImageTooLarge", says: "limits.image-size", ..large },
    ]
}

fn archives() -> Vec<Case> {
    let beyond = Tar::new().raw(&Tar::header("manifest.json", b'0', 1 << 40), b"[").0;
    let missing = Tar::new().file("manifest.json", r#"[{"Config":"x","Layers":["a"]}]"#).end();
    let mut twice = docker_legacy(&[(&["a:1"], &[Layer::plain(good())])]);
    twice.push(twice[twice.len() - 1].clone());
    let device = Tar::new().entry("manifest.json", b'3', b"").end();
    let link = Tar::new().symlink("manifest.json", "/etc/passwd").end();
    let circle = Tar::new().symlink("manifest.json", "a").symlink("a", "manifest.json").end();
    let hole = Content::Extended(Vec::new(), 1 << 40);
    vec![
        Case::docker("nothing at all", Vec::new(), "no files"),
        Case::docker("noise", vec![0xa5; 100_000], "no tar"),
        Case::docker("a unikernel as it is", unikernel(), "no tar"),
        Case::docker("text", b"docker save, please\n".repeat(60), "no tar"),
        Case { content: hole, ..Case::docker("a hole of 1 TiB", Vec::new(), "no files") },
        Case::docker("a zip", [&b"PK\x03\x04"[..], &[0; 600]].concat(), "zip"),
        Case::docker("gzip of nothing", gzip(b""), "no files"),
        Case::docker("a file that ends beyond the archive", beyond, "cut off"),
        Case::docker("a configuration that is not there", missing, "is missing in the archive: x"),
        Case::docker("manifest.json twice", tar_of(&twice), "is there twice"),
        Case::docker("manifest.json as a device", device, "is a character device"),
        Case::docker("manifest.json as a link to the host", link, "no index.json"),
        Case::docker("manifest.json in a circle", circle, "circle of links"),
        Case {
            form: Form::Oci,
            ..Case::docker("no image in OCI's layout", Tar::new().file("x", "").end(), "index.json")
        },
    ]
}

fn cut() -> Vec<Case> {
    let layers = [Layer::plain(good()), Layer::gzip(Tar::new().file("more", [7; 3000]))];
    let archive = tar_of(&docker_legacy(&[(&["a:1"], &layers)]));
    let packed = gzip(&archive);
    let cut = |name, bytes: &[u8], length: usize, says| Case::docker(name, bytes[..length].to_vec(), says);
    let stored = Layer { stored: gzip(&good().end())[..300].to_vec(), ..Layer::gzip(good()) };
    let half = Layer { stored: good().end()[..2000].to_vec(), ..Layer::plain(good()) };
    vec![
        cut("cut in its first header", &archive, 300, "cut off"),
        cut("cut at a quarter", &archive, archive.len() / 4, "cut off"),
        cut("cut in the middle", &archive, archive.len() / 2, "cut off"),
        cut("cut before its end", &archive, archive.len() - 1024, "cut off"),
        cut("gzip cut in its header", &packed, 5, ""),
        cut("gzip cut in the middle", &packed, packed.len() / 2, "cut off"),
        cut("gzip cut before its sum", &packed, packed.len() - 4, "cut off"),
        Case::oci_layer("a layer of gzip that is cut", stored, "cut off"),
        Case::oci_layer("a layer that is cut", half, "cut off"),
    ]
}
