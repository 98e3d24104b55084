package agent

// file is any other server: a file, or several, of the format that the target says.
var file = kind{anyFormat: true}
