//! The content service: takes uploads, keeps channels and their revisions, makes patches, frees what nothing
//! needs any more.
