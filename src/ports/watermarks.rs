//! Looking whether the databases are the ones that the shop has written, and not older copies of them.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::Instance;

/// The watermarks of the instances.
#[async_trait]
pub trait Watermarks: Send + Sync {
    /// Looks at all instances, and raises their watermarks. Nobody of this process uses an instance that was found to
    /// be set back, until a look finds it recovered.
    ///
    /// # Errors
    /// The first failure. The other instances were looked at all the same.
    async fn look(&self) -> StoreResult<()>;

    /// Answers of each instance whether it was found to be set back.
    fn set_back(&self) -> BTreeMap<Instance, bool>;
}
