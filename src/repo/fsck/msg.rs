use std::fmt;

/// How much a finding weighs, from nothing to "never to be demoted".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Not even mentioned.
    Ignore,
    /// Mentioned, as a warning; strict checking does not raise it.
    Info,
    /// Mentioned; strict checking (every push) makes it an error.
    Warn,
    /// The object is refused.
    Error,
    /// The object is refused and no configuration can change that.
    Fatal,
}

macro_rules! messages {
    ($($variant:ident $name:literal $severity:ident,)+) => {
        /// The message ids of git-fsck(1). Those about refs are known (so that overrides naming them are accepted) but never found here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)] // git's own documentation is the list
        pub enum MsgId { $($variant,)+ }

        impl MsgId {
            /// Every id, in the order of their numbers.
            pub const ALL: &'static [MsgId] = &[$(MsgId::$variant,)+];

            /// The id as git prints it: `treeNotSorted`.
            pub fn name(self) -> &'static str {
                match self { $(MsgId::$variant => $name,)+ }
            }

            /// The severity before strictness and overrides.
            pub fn default_severity(self) -> Severity {
                match self { $(MsgId::$variant => Severity::$severity,)+ }
            }
        }
    };
}

messages! {
    NulInHeader "nulInHeader" Fatal,
    UnterminatedHeader "unterminatedHeader" Fatal,

    BadDate "badDate" Error,
    BadDateOverflow "badDateOverflow" Error,
    BadEmail "badEmail" Error,
    BadGpgsig "badGpgsig" Error,
    BadHeadTarget "badHeadTarget" Error,
    BadHeaderContinuation "badHeaderContinuation" Error,
    BadName "badName" Error,
    BadObjectSha1 "badObjectSha1" Error,
    BadPackedRefEntry "badPackedRefEntry" Error,
    BadPackedRefHeader "badPackedRefHeader" Error,
    BadParentSha1 "badParentSha1" Error,
    BadRefContent "badRefContent" Error,
    BadRefFiletype "badRefFiletype" Error,
    BadRefName "badRefName" Error,
    BadRefOid "badRefOid" Error,
    BadReferentName "badReferentName" Error,
    BadTimezone "badTimezone" Error,
    BadTree "badTree" Error,
    BadTreeSha1 "badTreeSha1" Error,
    BadType "badType" Error,
    DuplicateEntries "duplicateEntries" Error,
    GitattributesBlob "gitattributesBlob" Error,
    GitattributesLarge "gitattributesLarge" Error,
    GitattributesLineLength "gitattributesLineLength" Error,
    GitattributesMissing "gitattributesMissing" Error,
    GitmodulesBlob "gitmodulesBlob" Error,
    GitmodulesLarge "gitmodulesLarge" Error,
    GitmodulesMissing "gitmodulesMissing" Error,
    GitmodulesName "gitmodulesName" Error,
    GitmodulesPath "gitmodulesPath" Error,
    GitmodulesSymlink "gitmodulesSymlink" Error,
    GitmodulesUpdate "gitmodulesUpdate" Error,
    GitmodulesUrl "gitmodulesUrl" Error,
    MissingAuthor "missingAuthor" Error,
    MissingCommitter "missingCommitter" Error,
    MissingEmail "missingEmail" Error,
    MissingNameBeforeEmail "missingNameBeforeEmail" Error,
    MissingObject "missingObject" Error,
    MissingSpaceBeforeDate "missingSpaceBeforeDate" Error,
    MissingSpaceBeforeEmail "missingSpaceBeforeEmail" Error,
    MissingTag "missingTag" Error,
    MissingTagEntry "missingTagEntry" Error,
    MissingTree "missingTree" Error,
    MissingType "missingType" Error,
    MissingTypeEntry "missingTypeEntry" Error,
    MultipleAuthors "multipleAuthors" Error,
    PackedRefEntryNotTerminated "packedRefEntryNotTerminated" Error,
    PackedRefUnsorted "packedRefUnsorted" Error,
    TreeNotSorted "treeNotSorted" Error,
    UnknownType "unknownType" Error,
    ZeroPaddedDate "zeroPaddedDate" Error,

    BadReftableTableName "badReftableTableName" Warn,
    EmptyName "emptyName" Warn,
    FullPathname "fullPathname" Warn,
    HasDot "hasDot" Warn,
    HasDotdot "hasDotdot" Warn,
    HasDotgit "hasDotgit" Warn,
    LargePathname "largePathname" Warn,
    NullSha1 "nullSha1" Warn,
    NulInCommit "nulInCommit" Warn,
    ZeroPaddedFilemode "zeroPaddedFilemode" Warn,

    BadFilemode "badFilemode" Info,
    BadTagName "badTagName" Info,
    EmptyPackedRefsFile "emptyPackedRefsFile" Info,
    GitattributesSymlink "gitattributesSymlink" Info,
    GitignoreSymlink "gitignoreSymlink" Info,
    GitmodulesParse "gitmodulesParse" Info,
    MailmapSymlink "mailmapSymlink" Info,
    MissingTaggerEntry "missingTaggerEntry" Info,
    RefMissingNewline "refMissingNewline" Info,
    SymlinkRef "symlinkRef" Info,
    SymrefTargetIsNotARef "symrefTargetIsNotARef" Info,
    TrailingRefContent "trailingRefContent" Info,

    ExtraHeaderEntry "extraHeaderEntry" Ignore,
}

impl MsgId {
    /// Finds an id by name, whatever its case, as configuration keys need it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|id| id.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for MsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
