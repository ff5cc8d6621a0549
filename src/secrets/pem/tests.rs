use std::error::Error;

use rcgen::generate_simple_self_signed;

use super::*;

/// A certificate and its key, in PEM.
fn key_pair() -> [String; 2] {
    let generated = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    [generated.cert.pem(), generated.signing_key.serialize_pem()]
}

/// The error for a file with this content, in every form in which errors are shown.
fn error_text(content: impl AsRef<[u8]>, wanted: Wanted) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let error = match wanted {
        Wanted::Certificate => certificates(file.path()).map(drop),
        Wanted::PrivateKey => private_key(file.path()).map(drop),
    }
    .unwrap_err();
    format!("{error}\n{error:?}\n{:?}", error.source())
}

fn is_accepted(content: impl AsRef<[u8]>, wanted: Wanted) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    match wanted {
        Wanted::Certificate => certificates(file.path()).is_ok(),
        Wanted::PrivateKey => private_key(file.path()).is_ok(),
    }
}

/// Six consecutive characters of the base64 text of `pem` that `shown` contains.
fn leak<'a>(pem: &'a str, shown: &str) -> Option<&'a str> {
    let body = pem.lines().filter(|line| !line.starts_with(DASHES));
    body.flat_map(|line| (0..line.len().saturating_sub(5)).map(move |start| &line[start..start + 6]))
        .find(|run| shown.contains(run))
}

#[test]
fn whole_blocks_are_read_with_any_line_breaks() {
    let [certificate, key] = key_pair();
    for (content, wanted) in [(&certificate, Wanted::Certificate), (&key, Wanted::PrivateKey)] {
        let variants = [
            content.clone(),
            content.replace("\r\n", "\n"),
            content.replace("\r\n", "\n").replace('\n', "\r\n"),
            content.replace("\r\n", "\n").replace('\n', "\r"),
            format!("{BYTE_ORDER_MARK}{content}"),
            format!("a comment\n{BYTE_ORDER_MARK}{content}{BYTE_ORDER_MARK}{content}"),
            format!("{certificate}{key}"),
            format!("{key}{certificate}"),
            content.trim_end().to_owned(),
        ];
        for variant in variants {
            assert!(is_accepted(&variant, wanted), "{variant}");
        }
    }
}

#[test]
fn errors_name_the_damage_and_quote_nothing() {
    let [certificate, key] = key_pair().map(|pem| pem.replace("\r\n", "\n"));
    let der = |pem: &str| -> Vec<u8> {
        let (_, der) =
            <(rustls_pki_types::pem::SectionKind, Vec<u8>)>::from_pem_slice(pem.as_bytes()).unwrap();
        der
    };
    let relabel = |pem: &str, label: &str| {
        let kind = if pem.contains("CERTIFICATE") { "CERTIFICATE" } else { "PRIVATE KEY" };
        pem.replace(kind, label)
    };
    let no_breaks = "the PEM block has no line breaks";
    let escaped = r"the PEM block has `\n` in place of line breaks";
    for (pem, wanted) in [(&certificate, Wanted::Certificate), (&key, Wanted::PrivateKey)] {
        let lines: Vec<&str> = pem.lines().collect();
        let last = lines.len() - 1;
        let joined = |from: usize, to: usize, with: &str| {
            let [before, middle, after] = [&lines[..from], &lines[from..to], &lines[to..]];
            [&before.join("\n"), "\n", &middle.join(with), "\n", &after.join("\n")].concat()
        };
        let utf16: Vec<u8> = pem.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let cut = pem.len() / 2;
        for (content, expected) in [
            (pem.replace('\n', "").into_bytes(), no_breaks),
            (pem.replace('\n', " ").into_bytes(), no_breaks),
            (joined(0, 2, "").into(), no_breaks),
            (joined(1, last + 1, "").into(), no_breaks),
            (pem.replace('\n', "\\n").into(), escaped),
            (pem.replace('\n', "\\r\\n").into(), escaped),
            (joined(1, last, "\\n").into(), escaped),
            (format!("\"{}\"", pem.replace('\n', "\\n")).into(), escaped),
            (pem[..cut].into(), "the PEM block has no END line"),
            (format!("{}{pem}", &pem[..cut]).into(), "the PEM block has no"),
            (lines[..last].join("\n").into(), "the PEM block has no END line"),
            (pem.replace("-----END", "-----ENDE").into(), "the PEM block has no END line"),
            (format!("  {}", lines.join("\n  ")).into(), "the PEM block is indented"),
            (joined(1, last, "\n!").into(), "the PEM block is damaged"),
            (pem.replacen(&lines[1][..3], "", 1).into(), "the PEM block is damaged"),
            (der(pem), "in it, but DER"),
            (utf16, "in it: it is UTF-16, not UTF-8"),
            (lines[1..last].join("\n").into(), "in it, but no PEM block"),
            ("".into(), "in it: it is empty"),
            ("\u{feff}\n".into(), "in it: it is empty"),
            (vec![0xff; 100], "in it: it is not UTF-8"),
            (relabel(pem, "PUBLIC KEY").into(), "in it, but a public key"),
            (relabel(pem, "CERTIFICATE REQUEST").into(), "in it, but a certificate request"),
            (relabel(pem, "DH PARAMETERS").into(), "in it, but PEM blocks of other kinds"),
        ] {
            let shown = error_text(&content, wanted);
            assert!(shown.contains(expected), "{}: {shown}", String::from_utf8_lossy(&content));
            assert_eq!(leak(pem, &shown), None, "{shown}");
        }
    }
    for (content, wanted, expected) in [
        (key.clone(), Wanted::Certificate, "it has no certificate in it, but a private key"),
        (certificate, Wanted::PrivateKey, "it has no private key in it, but a certificate"),
        (relabel(&key, "ENCRYPTED PRIVATE KEY"), Wanted::PrivateKey, "but an encrypted private key"),
        (relabel(&key, "OPENSSH PRIVATE KEY"), Wanted::PrivateKey, "neither PKCS#8, PKCS#1 nor SEC1"),
        (
            relabel(&key, "RSA PRIVATE KEY").replacen(
                "KEY-----\n",
                "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00FF\n\n",
                1,
            ),
            Wanted::PrivateKey,
            "but an encrypted private key",
        ),
    ] {
        let shown = error_text(&content, wanted);
        assert!(shown.contains(expected), "{content}: {shown}");
        assert_eq!(leak(&key, &shown), None, "{shown}");
    }
}

#[test]
fn leak_finds_six_characters_of_a_key() {
    let [_, key] = key_pair();
    let line = key.lines().nth(1).unwrap();
    assert!(leak(&key, &format!("a {} b", &line[10..16])).is_some());
    assert!(leak(&key, &key.replace('\n', "")).is_some());
    assert!(leak(&key, &line[10..15]).is_none());
}

#[test]
fn io_errors_are_reported() {
    assert!(certificates(Path::new("/nowhere/tls.crt")).unwrap_err().to_string().contains("No such file"));
    assert!(private_key(Path::new("/")).unwrap_err().to_string().contains("directory"));
}
