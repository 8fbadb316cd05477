use super::translated;

#[test]
fn words_become_operators() {
    let table = [
        ("a and b or not c", "a && b || ! c"),
        ("context.and == nil", "context.and == null"),
        ("x == 'and or \\' nil' and y", "x == 'and or \\' nil' && y"),
        ("len(context.items) > 0", "size(context.items) > 0"),
        ("android && nilly && notable", "android && nilly && notable"),
        ("'open", "'open"),
        ("é and ü", "é && ü"),
    ];
    for (rocket, cel) in table {
        assert_eq!(translated(rocket), cel, "{rocket}");
    }
}
