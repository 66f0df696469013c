//! Lists as parameters: an array on PostgreSQL, JSON on SQLite.

use sqlx::{
    Encode, Postgres, Sqlite, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo},
    sqlite::{SqliteArgumentsBuffer, SqliteTypeInfo},
};

/// A list of numbers as one parameter.
#[derive(Clone, Debug)]
pub struct Ints(pub Vec<i64>);

/// A list of texts as one parameter.
#[derive(Clone, Debug)]
pub struct Texts(pub Vec<String>);

macro_rules! list_parameter {
    ($list:ty, $item:ty) => {
        impl Type<Sqlite> for $list {
            fn type_info() -> SqliteTypeInfo {
                <String as Type<Sqlite>>::type_info()
            }
        }
        impl Encode<'_, Sqlite> for $list {
            fn encode_by_ref(&self, buf: &mut SqliteArgumentsBuffer) -> std::result::Result<IsNull, BoxDynError> {
                <String as Encode<'_, Sqlite>>::encode(serde_json::to_string(&self.0)?, buf)
            }
        }
        impl Type<Postgres> for $list {
            fn type_info() -> PgTypeInfo {
                <Vec<$item> as Type<Postgres>>::type_info()
            }
        }
        impl Encode<'_, Postgres> for $list {
            fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> std::result::Result<IsNull, BoxDynError> {
                <Vec<$item> as Encode<'_, Postgres>>::encode_by_ref(&self.0, buf)
            }
        }
    };
}
list_parameter!(Ints, i64);
list_parameter!(Texts, String);
