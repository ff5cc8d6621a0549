<?php

// `artisan tinker --execute`: runs what it is given, and prints as JSON what that returns.

$app = require __DIR__.'/bootstrap/app.php';
$app->make(Illuminate\Contracts\Http\Kernel::class)->bootstrap();
echo json_encode(eval('use App\Models\User; use App\Models\Workspace; use Illuminate\Support\Facades\Schema; use Illuminate\Support\Facades\DB; use Laravel\Sanctum\PersonalAccessToken; '.$argv[1]), JSON_THROW_ON_ERROR);
