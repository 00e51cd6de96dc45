// For build scripts: writes down where the messages of `.proto` files hold others (`concordat_events::protobuf::Shaped`).

/// The shape of each message of the files, as code to be included where the messages themselves are.
fn shapes(files: &protox::prost_reflect::prost_types::FileDescriptorSet) -> String {
    use std::fmt::Write as _;
    let mut code = String::new();
    for message in files.file.iter().flat_map(|file| &file.message_type) {
        let mut parts = String::new();
        for field in &message.field {
            let part = match field.r#type().as_str_name() {
                "TYPE_MESSAGE" => {
                    let of = field.type_name().rsplit('.').next().unwrap_or_default();
                    format!("Message(&<{of} as ::concordat_events::protobuf::Shaped>::SHAPE)")
                }
                "TYPE_BYTES" | "TYPE_STRING" => continue,
                _ if field.label().as_str_name() == "LABEL_REPEATED" => "Packed".to_owned(),
                _ => continue,
            };
            let _ = write!(parts, "({}, ::concordat_events::protobuf::Part::{part}), ", field.number());
        }
        let _ = writeln!(
            code,
            "impl ::concordat_events::protobuf::Shaped for {} {{\n    \
             const SHAPE: ::concordat_events::protobuf::Shape = ::concordat_events::protobuf::Shape(&[{parts}]);\n}}",
            message.name()
        );
    }
    code
}
