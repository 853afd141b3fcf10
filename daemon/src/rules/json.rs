//! Rules in JSON, in which a key may be written twice: such a list is refused. TOML refuses it by itself.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::text::{ReadRule, RuleError, read_list};

/// Reads the JSON of `{"rules": [..]}`.
pub fn read_json(text: &[u8]) -> Result<Vec<ReadRule>, RuleError> {
    let no_json =
        |error: &serde_json::Error| RuleError::NoList(format!("this is no JSON: {error}"));
    let mut reader = serde_json::Deserializer::from_slice(text);
    let Once(body) = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        // `Once` takes every value but one of `Twice`.
        if error.inner().is_data() {
            RuleError::Twice(error.path().to_string())
        } else {
            no_json(error.inner())
        }
    })?;
    reader.end().map_err(|error| no_json(&error))?;
    read_list(body)
}

/// A value in which no key is there twice; of two, [`Value`] takes the last without a word.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Once)
    }
}

/// The value of a key that was there before. An error of its own, so that the error has the key's path.
struct Twice;

impl<'de> Deserialize<'de> for Twice {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("it is there twice"))
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(value)) = values.next_element()? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut table = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if table.contains_key(&key) {
                entries.next_value::<Twice>()?;
            }
            let Once(value) = entries.next_value()?;
            table.insert(key, value);
        }
        Ok(table.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_named_with_its_rule() {
        for (text, place) in [
            (r#"{"rules": [], "rules": [{"action": "ignore"}]}"#, "rules"),
            (r#"{"rules": [{"action": "ignore", "action": "track"}]}"#, "rules[0].action"),
            (r#"{"rules": [{"action": "track"}, {"port": 1, "port": 1}]}"#, "rules[1].port"),
            (r#"{"rules": [{"port": 1, "\u0070ort": 2}]}"#, "rules[0].port"),
            (r#"{"rules": [{"action": {"a": [], "a": {}}}]}"#, "rules[0].action.a"),
        ] {
            let error = read_json(text.as_bytes()).unwrap_err();
            assert_eq!(error, RuleError::Twice(place.to_owned()));
            assert_eq!(error.to_string(), format!("`{place}`: it is there twice; leave one out"));
        }
    }

    #[test]
    fn every_json_is_read_as_value_reads_it() {
        let text = r#"{"a": [null, true, 1, -1, 0.5, 18446744073709551616, "\n", "x", {}, []], "b": {"a": 1}}"#;
        let Once(value) = serde_json::from_str(text).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
        let rules = r#"{"rules": [{"action": "ignore"}, {"action": "track"}]}"#;
        assert_eq!(read_json(rules.as_bytes()).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_json_is_named_by_its_place() {
        for text in
            ["", "{", "{\"rules\": [}", "{\"rules\": []} more", "{\"rules\": [], \"rules\"}"]
        {
            let error = read_json(text.as_bytes()).unwrap_err();
            assert_eq!(error.place(), "rules");
            let error = error.to_string();
            assert!(error.starts_with("this is no JSON: ") && error.contains("line 1"), "{error}");
        }
        assert!(read_json(b"{\"rules\": [\"\xff\"]}").is_err());
    }
}
