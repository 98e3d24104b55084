package agent

// file is any other server: one or more files of the format that the target names.
var file = kind{anyFormat: true}
